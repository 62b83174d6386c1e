"""Writes down which rows a trainer is fed, without a change to the library.

Python imports a module of this name by itself when its folder is on ``PYTHONPATH``, in the launcher
and in each process it starts. With ``WATCHED_ROWS`` set it waits there for `llmforge.trainer`; without,
it does nothing, and tests in this process import `watching` from it. Nothing heavy is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def watching(training_step: Callable[..., Any], folder: Path, interrupt_at: int | None = None) -> Callable[..., Any]:
    """`Trainer.training_step`, which first appends the step and the ids of the micro-batch to a file of its process.

    At the last micro-batch of step `interrupt_at` it is interrupted as by Ctrl-C, with the gradients of
    the earlier ones of that step lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.environ.get('RANK', 0)}.jsonl"
    micro_batches: list[int] = []

    def watched(self: Any, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
        step = self.state.global_step + 1
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "ids": inputs["input_ids"].tolist()}) + "\n")
        micro_batches.append(step)
        if step == interrupt_at and micro_batches.count(step) == self.args.gradient_accumulation_steps:
            raise KeyboardInterrupt
        return training_step(self, model, inputs, *arguments, **settings)

    return watched


class _AfterImport(importlib.abc.MetaPathFinder):
    """Puts `watching` into `ForgeTrainer` as soon as its module is there."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "llmforge.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            module.ForgeTrainer.training_step = watching(module.ForgeTrainer.training_step, self.folder)

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "sitecustomize" and "WATCHED_ROWS" in os.environ:
    sys.meta_path.insert(0, _AfterImport(Path(os.environ["WATCHED_ROWS"])))
