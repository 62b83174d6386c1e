"""PYTHONPATH=.:tests python -m reliability.chaos [--kills N] [--seed N] [--json]

Kills trainings at random moments, goes on with them, and compares their weights at the end with those of
an undisturbed run, bit for bit; both architectures, saving in the background and at once, with stock
Trainer beside it on the same rows. ``make chaos`` runs it. The exit code is 7 if anything of ours failed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = 8
#: Steps that are begun before the kill, at most, and seconds from there to it: a step and a save take that, or less.
MOST_BEATS, LONGEST = 4, 0.5
PRESETS = ("gpt2-10m", "neox-10m")


@dataclass
class Tally:
    """What happened: runs ended, kills, where they hit, resumes that did not start, and whatever was wrong."""

    runs: int = 0
    kills: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    by_hand: int = 0
    faults: list[str] = field(default_factory=list)


def phase(folder: Path, began: bool) -> str:
    """What the killed process was doing, by what it left; `began` says that it had begun a step."""
    if (folder / ".llmforge-trash").exists():
        return "deleting"
    if any(folder.glob(".staging-*")):
        return "saving"
    return "training" if began else "loading"


def killed(work: Callable[[Any], object], folder: Path, source: random.Random) -> tuple[int, bool]:
    """Do `work` in a child and kill it at a random moment; its exit code, and whether it had begun a step.

    `work` is given a callback that counts steps.
    """
    from reliability.harness import Beat, killed_after

    beats = folder.with_name(f"{folder.name}-beats")
    beats.unlink(missing_ok=True)
    wanted = source.randint(0, MOST_BEATS)

    def ready() -> bool:
        return wanted == 0 or (beats.exists() and beats.stat().st_size >= wanted)

    try:
        return killed_after(source.uniform(0, LONGEST), lambda: work(Beat(beats)), ready), beats.exists()
    finally:
        beats.unlink(missing_ok=True)


def case(
    folder: Path, tokenizer: Any, preset: str, source: random.Random, expected: dict[str, Any], tally: Tally, tear: bool = False
) -> None:
    """One run, killed and gone on with till it is at its end; faults are noted in `tally`.

    Args:
        tear: Cut a file of the newest checkpoint short after every kill, if there is an older one.
    """
    from reliability.harness import differing, forked, go_on, unsound, weights

    from llmforge.checkpoints.manifest import list_checkpoints, verify

    folder.mkdir(parents=True)
    tally.runs += 1
    settings = {"preset": preset, "max_steps": STEPS, "saving": {"async_save": source.random() < 0.7}}
    for _ in range(source.randint(1, 4)):
        before = len(list_checkpoints(folder))
        code, began = killed(lambda beat: go_on(folder, tokenizer, callbacks=[beat], **settings), folder, source)
        if code not in (0, -9):
            tally.faults.append(f"{folder}: a run ended with {code}")
            return
        if code == 0:
            break
        tally.kills += 1
        tally.phases[phase(folder, began)] += 1
        committed = list_checkpoints(folder)
        if before and not committed:
            tally.faults.append(f"{folder}: the committed checkpoints are gone")
        if not tear:
            tally.faults += [f"{path}: {problem}" for path in committed for problem in verify(path)]
        elif len(committed) > 1:
            os.truncate(committed[-1] / "optimizer.pt", 100)
    if forked(lambda: go_on(folder, tokenizer, **settings), quiet=True) != 0:
        tally.faults.append(f"{folder}: it could not be gone on with")
        return
    different = differing(weights(folder, STEPS), expected)
    if different:
        tally.faults.append(f"{folder}: other weights than the undisturbed run, {different[0]} among them")
    tally.faults += [f"{folder}: {problem}" for problem in unsound(folder)]
    shutil.rmtree(folder)


def stock_training(folder: Path, tokenizer: Any, preset: str, resume: bool, callback: Any, max_steps: int = STEPS) -> None:
    """The same rows, steps and saves with stock Trainer, as its own documentation resumes it."""
    from helpers import awkward_documents, packed_rows, tiny_model, training_args
    from reliability.harness import SETTINGS
    from transformers import Trainer

    from llmforge.data.collate import PackedCollator

    model = tiny_model(preset, tokenizer, dropout=True)
    plain = type(model)(copy.deepcopy(model.config))
    plain.load_state_dict(model.state_dict())
    settings = SETTINGS | {"max_steps": max_steps, "optim": "adamw_torch_fused"}
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    tools = {"train_dataset": rows, "processing_class": tokenizer, "data_collator": PackedCollator()}
    trainer = Trainer(plain, training_args(folder, **settings), callbacks=[callback], **tools)
    trainer.train(resume_from_checkpoint=resume or None)


def stock_case(folder: Path, tokenizer: Any, preset: str, source: random.Random, tally: Tally) -> None:
    """One run of stock Trainer; where its resume does not start, the newest checkpoint is removed by hand, and counted."""
    from reliability.harness import forked

    folder.mkdir(parents=True)
    tally.runs += 1

    def go_on(beat: Any) -> None:
        stock_training(folder, tokenizer, preset, any(folder.glob("checkpoint-*")), beat)

    for _ in range(source.randint(1, 4)):
        code, _ = killed(go_on, folder, source)
        if code == 0:
            break
        tally.kills += 1
        failed = False
        while any(folder.glob("checkpoint-*")) and forked(lambda: stock_starts(folder, tokenizer, preset), quiet=True) != 0:
            failed = True
            shutil.rmtree(max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])))
        tally.by_hand += failed
    shutil.rmtree(folder)


def stock_starts(folder: Path, tokenizer: Any, preset: str) -> None:
    """Resume, and end the process at the first step; raises as the resume does."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os._exit(0)

    try:
        stock_training(folder, tokenizer, preset, True, Stop(), STEPS + 2)
    except BaseException:  # which is what is looked for, and no traceback to be shown
        os._exit(1)


def main() -> int:
    """Run and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=500, help="of ours, over both architectures")
    options.add_argument("--stock_kills", type=int, default=100, help="of stock Trainer")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    from helpers import write_documents
    from reliability.harness import training, weights

    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.tokenization import load_pretrained, train_tokenizer

    began = time.monotonic()
    ours, theirs = {preset: Tally() for preset in PRESETS}, {preset: Tally() for preset in PRESETS}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        texts = [path.read_text(encoding="utf-8") for path in sorted(write_documents(root / "corpus").iterdir())]
        train_tokenizer(texts, TokenizerArguments(vocab_size=400)).save(root / "tokenizer")
        tokenizer = load_pretrained(root / "tokenizer")
        for preset in PRESETS:
            source = random.Random(f"{chosen.seed} {preset}")
            training(root / preset, tokenizer, preset, max_steps=STEPS).train()
            expected = weights(root / preset, STEPS)
            while ours[preset].kills < chosen.kills / len(PRESETS):
                case(root / f"{preset}-{ours[preset].runs}", tokenizer, preset, source, expected, ours[preset])
            while theirs[preset].kills < chosen.stock_kills / len(PRESETS):
                stock_case(root / f"stock-{preset}-{theirs[preset].runs}", tokenizer, preset, source, theirs[preset])
    faults = [fault for tally in ours.values() for fault in tally.faults]
    told = {
        "seed": chosen.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "ours": {
            preset: {"runs": tally.runs, "kills": tally.kills, "while": dict(tally.phases), "faults": len(tally.faults)}
            for preset, tally in ours.items()
        },
        "stock": {
            preset: {"runs": tally.runs, "kills": tally.kills, "resumes that failed": tally.by_hand}
            for preset, tally in theirs.items()
        },
        "faults": faults,
    }
    print(json.dumps(told, indent=None if chosen.json else 2))
    return 7 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
