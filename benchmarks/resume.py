"""python benchmarks/resume.py [--rounds N] [--late STEP] [--stock] [--json]

What it costs to go on with a run at step 10 and at step 100,000: from the call of `train` to the first step, with the
checkpoint verified and loaded, the rows that were seen passed over and a history of a logged loss every ten steps.
One epoch is longer than the run, so that all the rows that were seen are to be passed over. The model is of two layers.

- seconds: of both, in turn, each on a trainer of its own
- calls: of Python functions and of C functions from it, counted by the interpreter's profiler; the same every time
- ``--stock``: stock Trainer beside it, on the same rows and checkpoints
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import in_turn, packed, parser, ratio, spread, table, tell
from datasets import Dataset
from sides import forge, quiet, stock
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, set_seed

from llmforge import PackedCollator
from llmforge.checkpoints.manifest import write_manifest
from llmforge.data.rows import PackedRows, to_dataset

EARLY, EVERY, BLOCK, VOCABULARY, ROWS = 10, 10, 64, 512, 4


def many_rows(count: int) -> PackedRows:
    """A few rows again and again, enough for an epoch that is longer than the run."""
    table = to_dataset(packed(1000, BLOCK, 40, VOCABULARY)).data.table
    return PackedRows(Dataset(pa.concat_tables([table] * (count // len(table) + 1)).combine_chunks()), pad=1)


class Stop(TrainerCallback):
    """Ends the training at a step, and notes when its first one begins."""

    def __init__(self, last: int = 0):
        self.last, self.begun = last, 0.0
        self.calls = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sys.setprofile(None)
        self.begun = self.begun or time.perf_counter()
        control.should_training_stop = self.last == 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.last


def model() -> GPT2LMHeadModel:
    """Two layers."""
    set_seed(0)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": BLOCK, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=1, **shape))


def aged(checkpoint: Path, step: int) -> Path:
    """The same checkpoint as a run leaves it after so many steps."""
    later = checkpoint.parent.parent / "late" / f"checkpoint-{step}"
    later.parent.mkdir()
    os.rename(checkpoint, later)
    state = json.loads((later / "trainer_state.json").read_text())
    entry = next(entry for entry in state["log_history"] if "loss" in entry)
    state["log_history"] = [entry | {"step": number} for number in range(EVERY, step + 1, EVERY)]
    state["global_step"] = step
    (later / "trainer_state.json").write_text(json.dumps(state))
    write_manifest(later, "run", step)
    return later


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="starts of each, in turn")
    options.add_argument("--late", type=int, default=100_000, help="the later step")
    options.add_argument("--stock", action="store_true", help="stock Trainer beside it")
    chosen = options.parse_args()
    quiet()
    rows: Any = many_rows((chosen.late + 100) * ROWS)
    told = {"per_device_train_batch_size": ROWS, "max_steps": chosen.late + 50, "use_cpu": True}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def checkpoint(folder: Path) -> Path:
            trainer = forge(model(), rows, folder, **told | {"save_strategy": "steps", "save_steps": EARLY})
            trainer.add_callback(Stop(EARLY))
            trainer.train()
            return folder / f"checkpoint-{EARLY}"

        late = aged(checkpoint(root / "run"), chosen.late)
        early = checkpoint(root / "run")

        def start(side: str, path: Path, counted: bool = False) -> float:
            folder = root / f"out-{side}"
            trainer: Any = (
                forge(model(), rows, folder, **told)
                if side == "ours"
                else stock(model(), rows, folder, PackedCollator(), forge(model(), rows, folder, **told).processing_class, **told)
            )
            stop, calls = Stop(), 0
            trainer.add_callback(stop)

            def count(frame: Any, event: str, argument: Any) -> None:
                nonlocal calls
                calls += event in ("call", "c_call")

            began = time.perf_counter()
            if counted:
                sys.setprofile(count)
            trainer.train(resume_from_checkpoint=str(path))
            return float(calls) if counted else stop.begun - began

        def way(side: str, path: Path) -> Callable[[], float]:
            return lambda: start(side, path)

        sides = ["ours", *["stock"] * chosen.stock]
        places = {f"at step {EARLY}": early, f"at step {chosen.late:,}": late}
        ways = {f"{side}, {place}": way(side, path) for side in sides for place, path in places.items()}
        seconds = in_turn(ways, chosen.rounds)
        calls = {f"{side}, {place}": start(side, path, counted=True) for side in sides for place, path in places.items()}
    ratios = {}
    for side in sides:
        first, second = (f"{side}, {place}" for place in places)
        ratios[side] = {"seconds": ratio(seconds[second], seconds[first]), "calls": calls[second] / calls[first]}
    lines = [[name, spread(values, "{:.3f}"), f"{calls[name]:,.0f}"] for name, values in seconds.items()]
    text = f"\n{table([['start', 'seconds to the first step', 'calls'], *lines])}\n\n" + "\n".join(
        f"{side}: the later over the earlier {found['seconds']:.2f} in time, {found['calls']:.2f} in calls"
        for side, found in ratios.items()
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tell(chosen.json, {"ratio": ratios, "seconds": medians, "calls": calls}, text)


if __name__ == "__main__":
    main()
