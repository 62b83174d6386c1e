"""Folders of runs as training leaves them, made without any training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: When a made run began, seconds since the epoch: 2026-01-31 12:00 UTC.
BEGUN = 1_769_860_800.0
FINISHED = {"exit_code": 0, "reason": "finished", "finished": True, "time": "2026-01-31T12:10:00Z", "starts": 1}
RECORD = {
    "run_id": "abcdef123456",
    "starts": 1,
    "created": "2026-01-31T12:00:00Z",
    "command": "llmforge pretrain --corpus notes --learning_rate 0.001",
    "folder": "/home/me",
    "host": "box",
    "python": "3.12.1",
    "versions": {"llmforge": "0.1.0", "torch": "2.13.0"},
    "device": "NVIDIA GeForce RTX 3090 (cuda, 24.0 GiB)",
    "parameters": 1_234_567,
    "config": {
        "model": {"preset": "gpt2-10m", "n_layer": 4},
        "data": {"corpus": "notes", "block_size": 128},
        "training": {"learning_rate": 0.001, "max_steps": -1, "seed": 42, "output_dir": "runs/made"},
    },
    "defaults": {"model": {"preset": "gpt2-124m", "n_layer": None}, "training": {"learning_rate": None, "output_dir": None}},
    "data": {"path": "/nowhere", "fingerprint": "0123abcd", "splits": {"train": {"documents": 7, "bytes": 9000, "tokens": 3000}}},
    "tokenizer": {"vocab_size": 512, "trained_here": True},
}


def falling(step: int) -> float:
    """A loss as one wants it."""
    return 2.5 + 4.5 / (1 + step / 20)


def train_line(step: int, loss: float | None = None, **more: Any) -> dict[str, Any]:
    """A training event as ``metrics.jsonl`` has it: a step a second, 1,000 tokens a step."""
    line = {"step": step, "loss": falling(step) if loss is None else loss, "grad_norm": 1.0 + 0.1 * math.sin(step)}
    line |= {"learning_rate": 1e-3 * (1 - step / 1000), "tokens": 1000 * step, "epoch": step / 100}
    return line | {"tokens_per_second": 1000.0, "eta_seconds": 200.0 - step, "time": BEGUN + step} | more


def eval_line(step: int, loss: float | None = None) -> dict[str, Any]:
    """An evaluation as ``metrics.jsonl`` has it."""
    loss = falling(step) + 0.1 if loss is None else loss
    values = {"eval_loss": loss, "eval_perplexity": math.exp(loss), "eval_bits_per_byte": loss / 2, "eval_accuracy": 0.3}
    return {"step": step, **values, "eval_runtime": 0.5, "tokens": 1000 * step, "time": BEGUN + step + 0.5}


def json_lines(*values: dict[str, Any]) -> str:
    """As `RunLog` writes them."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def made_run(
    folder: Path,
    steps: int = 200,
    every: int = 5,
    evaluate: int = 40,
    end: dict[str, Any] | None = FINISHED,
    training: Callable[[int], float] = falling,
    validation: Callable[[int], float] | None = None,
    samples: list[dict[str, Any]] | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """A run's folder: a training event every so many steps, an evaluation every so many, and how it ended.

    Args:
        end: ``exit.json``; None leaves it out, as a kill does.
        training, validation: The losses by step.
        record: Changes to ``run.json``.
    """
    folder.mkdir(parents=True)
    lines = []
    for step in range(steps + 1):
        if step and step % every == 0:
            lines.append(train_line(step, training(step)))
        if step % evaluate == 0:
            lines.append(eval_line(step, None if validation is None else validation(step)))
    (folder / "metrics.jsonl").write_text(json_lines(*lines), encoding="utf-8")
    if samples is None:
        samples = [
            {
                "step": step,
                "prompt": "func main",
                "strategy": strategy,
                "settings": {"top_p": 0.9},
                "text": f" {strategy} at {step}",
            }
            for step in range(evaluate, steps + 1, evaluate)
            for strategy in ("greedy", "sampled")
        ]
    (folder / "samples.jsonl").write_text(json_lines(*samples), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(RECORD | {"steps": steps} | (record or {})), encoding="utf-8")
    if end is not None:
        (folder / "exit.json").write_text(json.dumps({"step": steps} | end), encoding="utf-8")
    return folder
