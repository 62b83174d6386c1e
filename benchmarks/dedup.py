"""python benchmarks/dedup.py [--code DIR] [--prose FILE_OR_DIR] [--json]

Of near-duplicates planted into a corpus, how many are found, and what else is taken for one.

Of a sample of the documents copies are made in which 5, 10, 15 or 20 % of the words and symbols are
substituted, deleted or have another put before them, at random places. Each must share a cluster with its
original, and none may stand in another split. Beside it, what the corpus itself has in clusters: on a
corpus of distinct texts these are false. By default on the sample corpus, and on paragraphs of 60 to 300
words cut from ``--prose``; the figures of docs/concepts/duplicates.md:

    python benchmarks/dedup.py --code /usr/share/go-1.19/src --prose BOOKS --sweep
"""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, table

from llmforge.configs.data import DataArguments
from llmforge.data.dedup import PERMUTATIONS, find_clusters, highest_near, signatures, similarity, text_hash
from llmforge.data.splits import DROPPED, assign, split_position

ROOT = Path(__file__).resolve().parent.parent
SHARES = (0.05, 0.1, 0.15, 0.2)
SUFFIXES = (".go", ".py", ".c", ".rs", ".js", ".java")
TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


def read(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The distinct texts under `path`, by name."""
    paths = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.suffix in suffixes and item.is_file())
    return list(dict.fromkeys(item.read_text(encoding="utf-8", errors="replace") for item in paths))


def paragraphs(texts: list[str]) -> list[str]:
    """The blocks between blank lines of 60 to 300 words."""
    blocks = [block for text in texts for block in re.split(r"\n\s*\n", text)]
    return list(dict.fromkeys(block for block in blocks if 60 <= len(block.split()) <= 300))


def edited(text: str, share: float, vocabulary: list[str], source: random.Random) -> str:
    """`text` with that share of its words and symbols substituted, deleted or preceded by another."""
    made: list[str] = []
    for token in TOKEN.findall(text):
        kind = 3 if token.isspace() or source.random() >= share else source.randrange(3)
        made += ([source.choice(vocabulary)], [], [source.choice(vocabulary), " ", token], [token])[kind]
    return "".join(made)


def plant(texts: list[str], count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Planted copies, the number of each one's original and the share that was changed."""
    source = random.Random(seed)
    vocabulary = [token for text in source.sample(texts, min(len(texts), 200)) for token in TOKEN.findall(text) if token.strip()]
    chosen = source.sample(range(len(texts)), min(len(texts), count))
    planted = [edited(texts[number], share, vocabulary, source) for share in SHARES for number in chosen]
    return planted, np.array(chosen * len(SHARES)), np.repeat(SHARES, len(chosen))


def fingerprints(texts: list[str], shingle: int) -> np.ndarray:
    """Signatures, made in batches as `prepare` does."""
    return np.concatenate([signatures(texts[start : start + 256], shingle) for start in range(0, len(texts), 256)])


def as_keys(texts: list[str]) -> np.ndarray:
    """The texts' hashes as `assign` takes them."""
    return np.frombuffer(b"".join(map(text_hash, texts)), dtype=np.uint64).reshape(-1, 2)


def in_clusters(clusters: np.ndarray) -> dict[str, int]:
    """Documents that share a cluster, the size of the largest one, and how many would be dropped for one of each."""
    sizes = np.unique(clusters, return_counts=True)[1]
    return {"shared": int(sizes[sizes > 1].sum()), "largest": int(sizes.max()), "spare": len(clusters) - len(sizes)}


def measure(name: str, texts: list[str], count: int, args: DataArguments) -> dict[str, Any]:
    """One line of the table: what is found of the planted, what is in clusters without them, and the time."""
    planted, originals, _ = plant(texts, count, 0)
    started = time.process_time()
    rows = fingerprints(texts, args.dedup_shingle)
    signing = time.process_time() - started
    hashes = as_keys(texts)
    started = time.process_time()
    natural = find_clusters(hashes, rows, args.dedup_threshold)
    clustering = time.process_time() - started
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    both = texts + planted
    hashes = as_keys(both)
    rows = np.concatenate([rows, fingerprints(planted, args.dedup_shingle)])
    # Found: with the original alone, so that a chain by way of other copies does not count.
    found = []
    for start in range(0, len(planted), len(planted) // len(SHARES)):
        part = slice(start, start + len(planted) // len(SHARES))
        places = np.concatenate([np.arange(len(texts)), len(texts) + np.arange(part.start, part.stop)])
        ranks = np.r_[np.zeros(len(texts), int), np.ones(part.stop - part.start, int)]
        near = highest_near(rows[places], ranks, args.dedup_threshold)
        found.append(float(near[originals[part]].mean()))
    positions = np.array([split_position(text, args.split_seed) for text in both])
    split = assign(args, positions, hashes, rows).split
    one, other = split[originals], split[len(texts) :]
    crossing = (one != DROPPED) & (other != DROPPED) & (one != other)
    alone = assign(args, positions[: len(texts)], hashes[: len(texts)], rows[: len(texts)])
    return {
        "corpus": name,
        "documents": len(texts),
        "megabytes": round(size / 1e6, 1),
        "shingle": args.dedup_shingle,
        "threshold": args.dedup_threshold,
        "planted": len(planted),
        "found": dict(zip(map(str, SHARES), found, strict=True)),
        "found_overall": float(np.mean(found)),
        "across_splits": int(crossing.sum()),
        "clusters": in_clusters(natural),
        "dropped": {reason: len(indices) for reason, indices in alone.dropped().items()},
        "signature_mb_per_s": round(size / 1e6 / signing, 1),
        "cluster_seconds": round(clustering, 2),
        "bytes_per_document": PERMUTATIONS * 4 + 16,
    }


def missed(texts: list[str], args: DataArguments) -> float:
    """Of all pairs at or over the threshold by their signatures, the share that banding does not bring together."""
    rows = fingerprints(texts, args.dedup_shingle)
    near = np.zeros(len(rows), dtype=bool)
    ranks = np.arange(len(rows)) % 2
    for place in range(0, len(rows)):
        near[place] = (similarity(rows[place], rows[ranks > ranks[place]]) >= args.dedup_threshold).any()
    found = highest_near(rows, ranks, args.dedup_threshold) > ranks
    return float(1 - found[near].mean()) if near.any() else 0.0


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--code", type=Path, default=ROOT / "recipes" / "samples" / "go", help="folder of source files")
    options.add_argument("--prose", type=Path, help="text file, or folder of them")
    options.add_argument("--count", type=int, default=500, help="documents that copies are made of")
    options.add_argument("--sweep", action="store_true", help="try other shingles and thresholds too")
    args = options.parse_args()
    corpora = {"code": read(args.code, SUFFIXES)}
    if args.prose:
        corpora["prose"] = paragraphs(read(args.prose, (".txt", ".md")))
    settings = [(DataArguments().dedup_shingle, DataArguments().dedup_threshold)]
    if args.sweep:
        settings += [(1, 0.5), (2, 0.3), (2, 0.4), (2, 0.5), (3, 0.25), (5, 0.12)]
    results = []
    for shingle, threshold in settings:
        for name, texts in corpora.items():
            given = DataArguments(dedup_shingle=shingle, dedup_threshold=threshold)
            results.append(measure(name, texts, args.count, given))
            if (shingle, threshold) == settings[0] and len(texts) < 10_000:
                results[-1]["missed_by_banding"] = missed(texts, given)
    if args.json:
        print(json.dumps(results))
        return
    head = ["corpus", "shingle", "threshold", *(f"{share:.0%}" for share in SHARES), "all", "across", "in clusters", "largest"]
    lines = [[*head, "left out for held-out", "MB/s"]]
    for line in results:
        held_out = sum(count for reason, count in line["dropped"].items() if "held-out" in reason)
        lines.append(
            [line["corpus"], str(line["shingle"]), str(line["threshold"])]
            + [f"{line['found'][str(share)]:.1%}" for share in SHARES]
            + [
                f"{line['found_overall']:.1%}",
                str(line["across_splits"]),
                f"{line['clusters']['shared'] / line['documents']:.1%}",
            ]
            + [str(line["clusters"]["largest"]), f"{held_out / line['documents']:.1%}", f"{line['signature_mb_per_s']:.0f}"]
        )
    print(table(lines))


if __name__ == "__main__":
    main()
