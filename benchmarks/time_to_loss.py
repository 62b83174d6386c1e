"""python benchmarks/time_to_loss.py [--corpus DIR] [--steps N] [--levers] [--json]

Wall clock from text files to a given validation bits per byte: the pipeline of transformers'
``run_clm.py`` with its settings, at the best learning rate of a small sweep, against llmforge's
defaults. Same documents, tokenizer, model class and shape, rows a step and machine. Reading,
tokenizing and packing count, training the tokenizer and evaluating do not.

What `run_clm` reaches in ``--steps`` steps is the goal; llmforge is then trained for the share of
those steps in ``--shares`` one after the other, each with its own full schedule, until one gets
there. Where the two could be evaluated in different ways, `run_clm` gets the better figure: its
model is scored on isolated documents and on the joined text it was trained on. ``--levers`` takes
llmforge's parts away one at a time.

By default a small model on the sample corpus, in minutes. The long one of docs/benchmarks.md:

    python benchmarks/time_to_loss.py --corpus /usr/share/go-1.19/src --layers 4 --width 256 --block 512 --rows 8 \\
        --vocabulary 8192 --steps 240 --learning_rates 1e-3,2e-3,4e-3 --levers
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from common import parser, table, tell

ROOT = Path(__file__).resolve().parent.parent
EVALUATED = 64  # rows
#: What is taken away from llmforge's defaults, one at a time. AdamW gets run_clm's best learning rate.
ADAMW = {"optim": "adamw_torch_fused", "warmup_steps": 0.1}
LEVERS: dict[str, dict[str, Any]] = {
    "AdamW instead of Muon": ADAMW,
    "stock loss": {"lean_loss": False},
    "a mask instead of per-document attention": {"packed_attention": "mask"},
    "dropout 0.1": {"dropout": 0.1},
    "linear to zero instead of cosine": {"lr_scheduler_type": "linear"},
}


def shape(spec: dict[str, Any]) -> dict[str, int]:
    """The model's sizes, in GPT2Config's names."""
    sizes = {"n_layer": spec["layers"], "n_embd": spec["width"], "n_head": max(spec["width"] // 64, 1)}
    return sizes | {"n_positions": spec["block"]}


def score(model: Any, spec: dict[str, Any], joined: bool) -> float:
    """Validation bits per byte, on isolated documents or on the text joined as `run_clm` joins it; the same bytes a row."""
    import numpy as np
    import torch
    from sides import arguments

    from llmforge import (
        DataArguments,
        ForgeTrainer,
        ForgeTrainingArguments,
        PackedCollator,
        PackedRows,
        TokenizerArguments,
        prepare_dataset,
    )
    from llmforge.data.packing import Rows
    from llmforge.data.rows import to_dataset

    data = prepare_dataset(data_arguments(spec, DataArguments), TokenizerArguments(tokenizer=spec["tokenizer"]))
    rows = data.rows("validation", EVALUATED)
    if joined:
        block = spec["block"]
        texts = [json.loads(line)["text"] for line in Path(spec["validation"]).read_text().splitlines()]
        ids = list(chain.from_iterable([*one, data.tokenizer.eos_token_id] for one in data.tokenizer(texts)["input_ids"]))
        blocks = np.array(ids[: len(ids) // block * block], dtype=np.uint16).reshape(-1, block)
        # A row is one segment; its last token's target is not scored, as in run_clm.
        count = len(blocks)
        lengths, numbers = np.full(count, block - 1, np.int32), np.zeros(count, np.int32)
        table_ = to_dataset(Rows(blocks, np.arange(count + 1, dtype=np.int32), lengths, blocks[:, -1].astype(np.int32), numbers))
        rows = PackedRows(table_, pad=data.tokenizer.pad_token_id, most=EVALUATED)
    told = arguments(Path(spec["folder"]), per_device_eval_batch_size=8, use_cpu=spec["use_cpu"])
    trainer = ForgeTrainer(
        model=model,
        args=ForgeTrainingArguments(**told),
        eval_dataset=rows,
        processing_class=data.tokenizer,
        data_collator=PackedCollator(),
    )
    with torch.no_grad():
        return float(trainer.evaluate()["eval_bits_per_byte"])


def data_arguments(spec: dict[str, Any], kind: Any) -> Any:
    """How the corpus is read and split, on llmforge's side."""
    return kind(corpus=spec["corpus"], suffixes=[spec["suffix"]], block_size=spec["block"], split_ratios="0.9,0.1,0")


def run_clm(spec: dict[str, Any]) -> dict[str, float]:
    """The stages of ``run_clm.py``: load, tokenize, join and cut, train with its defaults but the learning rate.

    Documents are read whole and end in the end-of-text token, which is kinder than the line by line of the script.
    """
    import torch
    import transformers
    from datasets import disable_progress_bars, load_dataset

    from llmforge.runtime.devices import probe_device

    disable_progress_bars()
    transformers.set_seed(42)
    block = spec["block"]
    started = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["tokenizer"])
    raw = load_dataset("json", data_files=spec["train"], cache_dir=str(Path(spec["folder"]) / "hub"))["train"]

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        made = tokenizer(batch["text"])
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in made["input_ids"]]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, Any]:
        ids = list(chain.from_iterable(batch["input_ids"]))
        cut = [ids[start : start + block] for start in range(0, len(ids) // block * block, block)]
        return {"input_ids": cut, "labels": [list(one) for one in cut]}

    jobs = {"batched": True, "num_proc": len(os.sched_getaffinity(0))}
    tokenized = raw.map(tokenize, remove_columns=["text"], **jobs)
    grouped = tokenized.map(group, **jobs)
    prepared = time.perf_counter()
    # In the precision that llmforge would choose.
    half = None if spec["use_cpu"] or not torch.cuda.is_available() else probe_device().half
    config = transformers.GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=1, **shape(spec))
    model = transformers.AutoModelForCausalLM.from_config(config)
    args = transformers.TrainingArguments(
        output_dir=spec["folder"],
        per_device_train_batch_size=spec["rows"],
        max_steps=spec["steps"],
        learning_rate=spec["learning_rate"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=spec["use_cpu"],
        **({half: True} if half else {}),
    )
    trainer = transformers.Trainer(
        model=model,
        args=args,
        train_dataset=grouped,
        data_collator=transformers.default_data_collator,
        processing_class=tokenizer,
    )
    trainer.train()
    trained = time.perf_counter()
    bits = min(score(model, spec, joined=False), score(model, spec, joined=True))
    return {"prepare": prepared - started, "train": trained - prepared, "bits_per_byte": bits}


def llmforge(spec: dict[str, Any]) -> dict[str, float]:
    """llmforge's stages with its defaults, but for what `spec["changes"]` takes away."""
    import transformers

    from llmforge import (
        DataArguments,
        ForgeTrainingArguments,
        ModelArguments,
        TokenizerArguments,
        build_model,
        build_trainer,
        prepare_dataset,
    )

    transformers.utils.logging.disable_progress_bar()
    changes = dict(spec["changes"])
    dropout = changes.pop("dropout", 0.0)
    started = time.perf_counter()
    data = prepare_dataset(data_arguments(spec, DataArguments), TokenizerArguments(tokenizer=spec["tokenizer"]))
    prepared = time.perf_counter()
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    model = build_model(ModelArguments(preset="gpt2-10m", **shape(spec), **drops), data.tokenizer, data.block_size)
    args = ForgeTrainingArguments(
        output_dir=str(Path(spec["folder"]) / "run"),
        per_device_train_batch_size=spec["rows"],
        max_steps=spec["steps"],
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=spec["use_cpu"],
        **changes,
    )
    build_trainer(model, data, args).train()
    trained = time.perf_counter()
    return {"prepare": prepared - started, "train": trained - prepared, "bits_per_byte": score(model, spec, joined=False)}


def child(spec: dict[str, Any], side: str, **changes: Any) -> dict[str, float]:
    """One side's run in a process of its own, with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        told = spec | {"folder": folder, "side": side} | changes
        # One device, or Trainer would spread the rows over all and take more of them a step.
        own = {"LLMFORGE_CACHE": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder}
        environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ | own
        command = [sys.executable, __file__, "--child", json.dumps(told)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    seconds = f"{result['prepare']:.1f} + {result['train']:.1f} s"
    named = {name: value for name, value in changes.items() if name not in ("steps",)}
    print(f"{side}, {told['steps']} steps {named}: {result['bits_per_byte']:.4f} in {seconds}", file=sys.stderr, flush=True)
    return result | {"seconds": result["prepare"] + result["train"], "steps": told["steps"]}


def attempts(spec: dict[str, Any], shares: list[float], goal: float) -> Iterator[dict[str, float]]:
    """llmforge trained ever longer, until the goal is reached."""
    for share in shares:
        result = child(spec, "llmforge", steps=max(math.ceil(spec["steps"] * share), 1))
        yield result
        if result["bits_per_byte"] <= goal:
            return


def split_corpus(spec: dict[str, Any], folder: Path, vocabulary: int) -> dict[str, Any]:
    """The documents of both splits as JSONL, for `run_clm`, and a tokenizer trained on the training documents."""
    from llmforge import DataArguments, TokenizerArguments
    from llmforge.data.sources.corpus import read_corpus
    from llmforge.data.splits import split_documents
    from llmforge.tokenization import train_tokenizer

    args = data_arguments(spec, DataArguments)
    documents, _ = read_corpus(args)
    splits = split_documents(documents, args)
    paths = {}
    for name in ("train", "validation"):
        paths[name] = str(folder / f"{name}.jsonl")
        texts = [documents[index].text for index in splits[name]]
        Path(paths[name]).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        if name == "train":
            train_tokenizer(texts, TokenizerArguments(vocab_size=vocabulary)).save(folder / "tokenizer")
    return paths | {"tokenizer": str(folder / "tokenizer")}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--corpus", default=str(ROOT / "recipes" / "samples" / "go"))
    options.add_argument("--suffix", default=".go")
    options.add_argument("--steps", type=int, default=80, help="steps of run_clm")
    options.add_argument("--learning_rates", default="1e-3,3e-3", help="run_clm's sweep")
    options.add_argument("--shares", default="0.125,0.167,0.2,0.25,0.333,0.5,1", help="llmforge's steps, as shares of run_clm's")
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--block", type=int, default=128)
    options.add_argument("--rows", type=int, default=16)
    options.add_argument("--vocabulary", type=int, default=2048)
    options.add_argument("--levers", action="store_true", help="also without each of llmforge's parts")
    options.add_argument("--use_cpu", action="store_true")
    options.add_argument("--child", help="for the benchmark itself")
    chosen = options.parse_args()
    if chosen.child:
        spec = json.loads(chosen.child)
        print("\n" + json.dumps({"run_clm": run_clm, "llmforge": llmforge}[spec["side"]](spec)))
        return
    with tempfile.TemporaryDirectory() as name:
        names = ("corpus", "suffix", "steps", "layers", "width", "block", "rows", "use_cpu")
        spec = {key: getattr(chosen, key) for key in names} | {"changes": {}}
        spec |= split_corpus(spec, Path(name), chosen.vocabulary)
        rates = [float(rate) for rate in chosen.learning_rates.split(",")]
        sweep = {rate: child(spec, "run_clm", learning_rate=rate) for rate in rates}
        rate, peer = min(sweep.items(), key=lambda item: item[1]["bits_per_byte"])
        tried = list(attempts(spec, [float(share) for share in chosen.shares.split(",")], peer["bits_per_byte"]))
        ours = tried[-1]
        without = {}
        for lever, changes in LEVERS.items() if chosen.levers else ():
            changes = changes | ({"learning_rate": rate} if changes is ADAMW else {})
            without[lever] = child(spec, "llmforge", steps=ours["steps"], changes=changes)
    reached = ours["bits_per_byte"] <= peer["bits_per_byte"]
    figures = {
        "ratio": ours["seconds"] / peer["seconds"] if reached else None,
        "goal": peer["bits_per_byte"],
        "learning_rate": rate,
        "run_clm": {str(key): value for key, value in sweep.items()},
        "llmforge": tried,
        "without": without,
    }
    head = ["run", "steps", "bits per byte", "prepare, s", "train, s", "s a step"]
    runs = [(f"run_clm, lr {key:g}", result) for key, result in sweep.items()]
    runs += [("llmforge", result) for result in tried] + [(f"llmforge, {lever}", result) for lever, result in without.items()]
    lines = [
        [
            label,
            f"{result['steps']:.0f}",
            f"{result['bits_per_byte']:.3f}",
            f"{result['prepare']:.1f}",
            f"{result['train']:.1f}",
            f"{result['train'] / result['steps']:.3f}",
        ]
        for label, result in runs
    ]
    verdict = f"{figures['ratio']:.3f} of run_clm's wall clock" if reached else "not reached"
    edge = "" if min(rates) < rate < max(rates) else f"\nrun_clm's best learning rate, {rate:g}, is at the edge of the sweep"
    told = f"\n{table([head, *lines])}\n\nto {peer['bits_per_byte']:.3f} bits per byte: {verdict}{edge}"
    tell(chosen.json, figures, told)


if __name__ == "__main__":
    main()
