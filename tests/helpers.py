"""What tests call: small corpora and tiny models."""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "recipes" / "samples" / "go"


def run_demo(recipe: str, folder: Path, *arguments: str) -> Path:
    """`python recipes/<recipe>.py` in `folder`, its demo shortened to seconds; the run's folder.

    In a fork of this process, which has imported everything: the same by accelerate's launcher takes fifteen times as long,
    and test_pretrain_go.py does it once for all.
    """
    from reliability.child_runs import Child

    script = ROOT / "recipes" / f"{recipe}.py"
    small = "--n_layer 2 --n_embd 64 --block_size 128 --max_new_tokens 12 --logging_steps 2 --max_steps 8 --eval_steps 4"

    def run() -> None:
        os.chdir(folder)
        os.environ["LLMFORGE_CACHE"] = str(folder / "cache")
        sys.argv = [str(script), *small.split(), "--save_steps", "4", "--report_to", "none", *arguments]
        runpy.run_path(str(script), run_name="__main__")

    child = Child(run, str(folder / "demo"))
    assert child.wait(300) == 0, child.text()[-6000:]
    return max((folder / "runs").iterdir())


def prepared_by(folder: Path) -> dict[str, dict[str, str]]:
    """The dataset that `run_demo` made in `folder`: of each split the documents' texts, by name."""
    from llmforge import load_prepared

    [path] = (folder / "cache" / "datasets").iterdir()
    data = load_prepared(path)
    documents: dict[str, dict[str, str]] = {}
    for split, rows in data.dataset.items():
        pieces: dict[int, list[int]] = {}
        for row in rows:
            place = 0
            for length, document in zip(row["segment_lengths"], row["segment_documents"], strict=True):
                pieces.setdefault(document, []).extend(row["input_ids"][place : place + length])
                place += length
        names = data.document_names(list(pieces))
        texts = [data.tokenizer.decode(ids, skip_special_tokens=True) for ids in pieces.values()]
        documents[split] = dict(zip(names, texts, strict=True))
    return documents


def losses_of(run: Path) -> tuple[list[float], list[float]]:
    """The training and the evaluation losses in a run's ``metrics.jsonl``."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line], [line["eval_loss"] for line in lines if "eval_loss" in line]


def recipe_config(recipe: str, name: str, *flags: str):
    """One of a recipe's configs, parsed as its launch would."""
    from llmforge.pretrain import parse_pretrain

    return parse_pretrain(["--config", name, *flags], recipe=str(ROOT / "recipes" / f"{recipe}.py"))


def write_documents(folder: Path, count: int = 60, suffix: str = ".go", seed: int = 0) -> Path:
    """`count` small documents of uneven length, all different, as files in `folder`."""
    source = random.Random(seed)
    words = "func return err nil if for range string int error path data open close read write".split()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        body = "\n".join(" ".join(source.choices(words, k=source.randint(1, 12))) for _ in range(source.randint(1, 25)))
        (folder / f"file{number:03d}{suffix}").write_text(f"package p{number}\n\n{body}\n", encoding="utf-8")
    return folder


#: Smallest shapes with more than one layer and head, without dropout; by preset.
TINY = {
    "gpt2-10m": {"n_layer": 2, "n_embd": 32, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "neox-10m": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
}
#: The same with dropout everywhere.
TINY_DROPOUT = {
    "gpt2-10m": TINY["gpt2-10m"] | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "neox-10m": TINY["neox-10m"] | {"hidden_dropout": 0.1, "attention_dropout": 0.1},
}


def tiny_model(preset: str, tokenizer, dropout: bool = False, seed: int = 0):
    """A two-layer model of `preset`'s architecture with weights large enough for differences to show."""
    import torch

    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    shape = (TINY_DROPOUT if dropout else TINY)[preset]
    model = build_model(ModelArguments(preset=preset, initializer_range=0.2, **shape), tokenizer, seed=seed)
    torch.manual_seed(seed)
    return model


def awkward_documents(tokenizer, count: int = 28, block_size: int = 32, seed: int = 0):
    """Ids of documents that packing finds hard: of one token, longer than a row, just a row long, many short ones."""
    import numpy as np

    source = np.random.RandomState(seed)
    lengths = [1, 3 * block_size + 5, block_size - 1, block_size, block_size + 1, *source.randint(1, block_size // 2, count - 5)]
    # No special ids: those are never inside a document.
    return [source.randint(2, len(tokenizer), length).astype(np.uint16) for length in lengths]


def packed_rows(documents, tokenizer, block_size: int = 32):
    """`documents` as packed rows in memory."""
    from llmforge.data.packing import pack
    from llmforge.data.rows import PackedRows, to_dataset

    rows = pack(documents, list(range(len(documents))), block_size, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return PackedRows(to_dataset(rows), pad=tokenizer.pad_token_id)


def separate_sums(model, documents, tokenizer, block_size: int = 32):
    """Negative log-likelihood, targets, hits, bytes and byte-NLL of documents fed one by one, counted from logits.

    Written without any of the library's own code for it: this is what it is compared with.
    """
    import torch

    model.eval()
    totals = [0.0] * 5
    for document in documents:
        ids = [tokenizer.eos_token_id, *(int(token) for token in document), tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, block_size):
            given = ids[start : min(start + block_size, len(ids) - 1)]
            goals = ids[start + 1 : start + 1 + len(given)]
            with torch.no_grad():
                logits = type(model).forward(model, torch.tensor([given])).logits[0].double()
            for logit, goal in zip(logits, goals, strict=True):
                nll = float(torch.logsumexp(logit, -1) - logit[goal])
                token = tokenizer.convert_ids_to_tokens(goal)
                size = 0 if goal in (tokenizer.eos_token_id, tokenizer.pad_token_id) else len(token)
                for column, value in enumerate((nll, 1, int(logit.argmax()) == goal, size, nll if size else 0.0)):
                    totals[column] += value
    return totals


def training_args(folder: Path, **changes):
    """Arguments of a quiet CPU run in `folder`."""
    from llmforge.configs.training import ForgeTrainingArguments

    quiet = {
        "report_to": ["none"],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "eval_strategy": "no",
        "eval_on_start": False,
    }
    return ForgeTrainingArguments(output_dir=str(folder), **quiet | changes)


def forge_trainer(model, tokenizer, folder: Path, train=None, evaluate=None, callbacks=(), saving=None, **changes):
    """A `ForgeTrainer` on packed rows; `saving` are settings of `CheckpointArguments`."""
    from llmforge.configs.checkpoint import CheckpointArguments
    from llmforge.data.collate import PackedCollator
    from llmforge.trainer import ForgeTrainer

    return ForgeTrainer(
        model=model,
        args=training_args(folder, **changes),
        train_dataset=train,
        eval_dataset=evaluate,
        processing_class=tokenizer,
        data_collator=PackedCollator(),
        callbacks=list(callbacks),
        saving=CheckpointArguments(**saving or {}),
    )


def tensorboard_events(folder: Path):
    """What TensorBoard itself reads from a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0))
    events.Reload()
    return events


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, by tag."""
    events = tensorboard_events(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(folder: Path):
    """The records of the one W&B run in ``folder/wandb``, read from its file: LevelDB's log format with a header of 7 bytes."""
    import struct

    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/*run-*/run-*.wandb")
    data, place, joined, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # a header does not cross the end of a block
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        joined += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(joined))
            joined = b""
    return records


def wandb_history(folder: Path) -> dict[str, list[tuple[int, object]]]:
    """Step on W&B's axis and value of everything logged, by key."""
    import json

    found: dict[str, list[tuple[int, object]]] = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.pop("train/global_step", None)
            for key, value in row.items():
                if not key.startswith("_"):
                    found.setdefault(key, []).append((step, value))
    return found
