"""python benchmarks/prepare.py [--corpus DIR] [--suffix .go] [--rounds N] [--json]

From files to a dataset of packed rows: read, split, tokenize, pack. The pipeline of transformers'
``run_clm.py`` (``map`` to tokenize, ``map`` to join and cut, two processes, documents read whole)
against `prepare_dataset` with cleaning and deduplication off, on the same files with the same
tokenizer, two cores each, each in a process of its own. Training the tokenizer does not count, nor
does the import of transformers and datasets. Beside them, what llmforge does by default: cleaning and deduplication on.

`ratio` is how many times as fast, `memory_ratio` the part of the other side's memory (peak of the
resident memory of all its processes together). Every document is compared: llmforge's rows have to
hold, token by token, what `run_clm` tokenized, and nothing may be missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common import parser, table, tell

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
SIDES = {
    "run_clm": "run_clm.py's way",
    "plain": "llmforge, nothing cleaned or left out",
    "default": "llmforge's defaults",
    "parts": "encoding, packing and writing alone",
}


def texts_of(spec: dict[str, Any]) -> Iterator[str]:
    """The documents, in order; files without text are none."""
    for path in spec["files"]:
        text = Path(path).read_bytes().decode("utf-8", "replace")
        if text:
            yield text


def rows_as_text(spec: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The documents as `datasets` wants them."""
    for text in texts_of(spec):
        yield {"text": text}


def run_clm(spec: dict[str, Any]) -> float:
    """The stages of ``run_clm.py``; documents end in the end-of-text token, which its own lines do not."""
    import transformers
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    block, folder = spec["block"], Path(spec["folder"])
    started = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["tokenizer"])
    raw = Dataset.from_generator(rows_as_text, gen_kwargs={"spec": spec}, cache_dir=str(folder / "hub"))
    splits = raw.train_test_split(spec["held_out"], shuffle=False)

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        made = tokenizer(batch["text"])
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in made["input_ids"]]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, Any]:
        ids = list(itertools.chain.from_iterable(batch["input_ids"]))
        cut = [ids[start : start + block] for start in range(0, len(ids) // block * block, block)]
        return {"input_ids": cut, "labels": [list(one) for one in cut]}

    jobs = {"batched": True, "num_proc": CORES}
    tokenized = splits.map(tokenize, remove_columns=["text"], **jobs)
    grouped = tokenized.map(group, **jobs)
    seconds = time.perf_counter() - started
    tokenized.save_to_disk(str(folder / "tokenized"))
    spec["kept"] = sum(len(split) for split in grouped.values()) * block
    return seconds


def prepare(spec: dict[str, Any], **settings: Any) -> float:
    """`prepare_dataset`."""
    from llmforge import DataArguments, TokenizerArguments, prepare_dataset

    ratios = f"{1 - spec['held_out']},{spec['held_out']},0"
    data = DataArguments(
        corpus=spec["corpus"], suffixes=[spec["suffix"]], block_size=spec["block"], split_ratios=ratios, **settings
    )
    started = time.perf_counter()
    made = prepare_dataset(data, TokenizerArguments(tokenizer=spec["tokenizer"]))
    seconds = time.perf_counter() - started
    spec["dataset"] = str(made.path / "dataset")
    return seconds


def plain(spec: dict[str, Any]) -> float:
    """All that is in the files, as it stands."""
    return prepare(spec, dedup="off", clean=False, gitignore=False, keep_generated=True)


def parts(spec: dict[str, Any]) -> float:
    """What is left when the engine around it costs nothing: one split, no cache, no card."""
    import numpy as np

    from llmforge.data.dataset_writer import SplitWriter, write_dataset_dict
    from llmforge.data.packing import Batch, pack_split
    from llmforge.fast_tokens import Encoder
    from llmforge.tokenization import load

    started = time.perf_counter()
    tokenizer = load(Path(spec["tokenizer"]))
    encoder = Encoder(tokenizer)

    def batches() -> Iterator[Batch]:
        count = 0
        for texts in batched_by_size(texts_of(spec), 8_000_000):
            ids, lengths = encoder.encode_batch(texts)
            yield Batch(ids, lengths, np.arange(count, count + len(texts)))
            count += len(texts)

    target = Path(spec["folder"]) / "dataset"
    with SplitWriter(target / "train", spec["block"], encoder.dtype) as writer:
        for rows in pack_split(batches(), spec["block"], tokenizer.end_of_text, tokenizer.pad):
            writer.write(rows)
    write_dataset_dict(target, ["train"])
    spec["dataset"] = str(target)
    return time.perf_counter() - started


def batched_by_size(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """`texts` in lists of at least so many characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def pieces_of_tokenized(spec: dict[str, Any]) -> Counter[bytes]:
    """What `run_clm` tokenized, cut as packing cuts documents: each piece with the token after it."""
    import numpy as np
    from datasets import load_from_disk

    found: Counter[bytes] = Counter()
    block = spec["block"]
    for split in load_from_disk(str(Path(spec["folder"]) / "tokenized")).with_format("numpy").values():
        for row in split:
            ids = np.concatenate(([row["input_ids"][-1]], row["input_ids"])).astype(np.int64)
            for start in range(0, len(ids) - 1, block):
                found[digest(ids[start : min(start + block, len(ids) - 1) + 1])] += 1
    return found


def pieces_of_rows(folder: str) -> tuple[Counter[bytes], int]:
    """The segments of packed rows, each with the token after it, and how many tokens they are."""
    import numpy as np
    from datasets import load_from_disk

    found: Counter[bytes] = Counter()
    tokens = 0
    for split in load_from_disk(folder).with_format("numpy").values():
        for row in split:
            ids, start = row["input_ids"].astype(np.int64), 0
            for length, target in zip(row["segment_lengths"].tolist(), row["segment_targets"].tolist(), strict=True):
                found[digest(np.append(ids[start : start + length], target))] += 1
                start += length
            tokens += start
    return found, tokens


def digest(ids: Any) -> bytes:
    """A short name for a sequence of ids."""
    return hashlib.blake2b(ids.tobytes(), digest_size=12).digest()


def child(spec: dict[str, Any], side: str) -> dict[str, Any]:
    """One side's run in a process of its own, with a cache of its own: seconds, and the most memory of all its processes."""
    import psutil

    folder = Path(spec["folder"])
    own = {"LLMFORGE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "hub")}
    told = folder / "spec.json"
    told.write_text(json.dumps(spec | {"side": side}))
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", str(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own,
    )
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            try:
                root = psutil.Process(process.pid)
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            total = 0
            for one in family:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:  # it has just ended
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{side} ended with {process.returncode}:\n{err[-3000:]}")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    print(f"{side}: {result['seconds']:.2f} s, {peak / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    return result | {"memory": peak}


def measure(options: Any, folder: Path) -> dict[str, Any]:
    """All sides in turn, `options.rounds` times; the last round's rows are compared."""
    from llmforge import TokenizerArguments
    from llmforge.tokenization import train_tokenizer

    files = sorted(str(path) for path in Path(options.corpus).rglob(f"*{options.suffix}") if path.is_file())
    spec: dict[str, Any] = {"corpus": str(Path(options.corpus).resolve()), "suffix": options.suffix, "files": files}
    spec |= {"block": options.block, "held_out": 0.1, "tokenizer": str(folder / "tokenizer")}
    size = sum(len(text.encode()) for text in texts_of(spec))  # and all files are in the page cache
    step = max(size // 10_000_000, 1)
    sample = itertools.islice(texts_of(spec), 0, None, step)
    train_tokenizer(sample, TokenizerArguments(vocab_size=options.vocabulary)).save(folder / "tokenizer")
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides.split(",")}
    for turn in range(options.rounds):
        for side in taken:
            own = folder / f"{side}-{turn}"
            own.mkdir()
            taken[side].append(child(spec | {"folder": str(own)}, side))
    figures: dict[str, Any] = {"bytes": size, "documents": len(files), "sides": {}}
    for side, runs in taken.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        memory = statistics.median(run["memory"] for run in runs)
        figures["sides"][side] = {"seconds": seconds, "memory": memory, "mb_per_s": size / 1e6 / seconds}
    if "run_clm" in taken:
        compare(figures, {side: runs[-1] for side, runs in taken.items()}, spec)
    return figures


def compare(figures: dict[str, Any], last: dict[str, dict[str, Any]], spec: dict[str, Any]) -> None:
    """Add to each side how it stands against `run_clm`, and whether it holds the same ids."""
    theirs = figures["sides"]["run_clm"]
    expected = pieces_of_tokenized(spec | {"folder": last["run_clm"]["folder"]})
    for side, own in figures["sides"].items():
        own |= {"ratio": theirs["seconds"] / own["seconds"], "memory_ratio": own["memory"] / theirs["memory"]}
        if side != "run_clm":
            found, own["tokens"] = pieces_of_rows(last[side]["dataset"])
            own |= {"missing": (expected - found).total(), "not_expected": (found - expected).total()}
    tokens = max((own.get("tokens", 0) for own in figures["sides"].values()), default=0)
    theirs["dropped_tokens"] = tokens - last["run_clm"]["kept"]
    chosen = figures["sides"].get("plain") or figures["sides"].get("parts")
    if chosen:
        figures |= {name: chosen[name] for name in ("ratio", "memory_ratio", "mb_per_s")}
        figures["identical"] = chosen["missing"] == chosen["not_expected"] == 0


def told(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [["", "MB/s", "times as fast", "peak MB", "of its memory", "pieces missing", "pieces of its own"]]
    for side, own in figures["sides"].items():
        compared = [f"{own[name]:{form}}" if name in own else "" for name, form in (("ratio", ".1f"), ("memory_ratio", ".2f"))]
        counts = [f"{own[name]:,}" if name in own else "" for name in ("missing", "not_expected")]
        lines.append([SIDES[side], f"{own['mb_per_s']:.1f}", compared[0], f"{own['memory'] / 1e6:,.0f}", compared[1], *counts])
    return f"{figures['documents']:,} files, {figures['bytes'] / 1e6:.1f} MB\n\n{table(lines)}"


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--corpus", default=str(ROOT / "recipes" / "samples" / "go"))
    options.add_argument("--suffix", default=".go")
    options.add_argument("--block", type=int, default=1024)
    options.add_argument("--vocabulary", type=int, default=32_768)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--sides", default="run_clm,plain,default", help=f"of {', '.join(SIDES)}")
    options.add_argument("--child", help="the description of one side's run, for the processes that are started")
    given = options.parse_args()
    if given.child:
        spec = json.loads(Path(given.child).read_text())
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        seconds = {"run_clm": run_clm, "plain": plain, "default": prepare, "parts": parts}[spec["side"]](spec)
        kept = {name: spec[name] for name in ("folder", "dataset", "kept") if name in spec}
        print(json.dumps({"seconds": seconds} | kept))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given, Path(folder))
    tell(given.json, figures, told(figures))


if __name__ == "__main__":
    main()
