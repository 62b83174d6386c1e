"""Runs that were never run: folders as a training leaves them, with curves that were thought up."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: When the made runs began, in seconds since the epoch.
BEGAN = 1_577_836_800.0
#: Seconds of a step.
STEP = 2.0


def events(
    steps: int, log: int = 10, evaluate: int = 50, total: int | None = None, seed: int = 0, **more: Any
) -> list[dict[str, Any]]:
    """Log events of a healthy run up to a step: warm-up over a twentieth, cosine decay, a loss that falls as a power."""
    rng, total, made = random.Random(seed), total or steps, []
    for step in range(0, steps + 1):
        loss = 2.2 + 6.2 * (1 + step / (0.01 * total)) ** -0.62
        place = {"tokens": step * 2048, "epoch": step * 2048 / 1e6, "time": BEGAN + step * STEP}
        if step and step % log == 0:
            warm = min(step / (0.05 * total), 1.0)
            figures = {
                "loss": loss + rng.gauss(0, 0.04),
                "grad_norm": 0.7 + 1.6 * math.exp(-step / (0.05 * total)) + abs(rng.gauss(0, 0.06)),
                "learning_rate": 6e-4 * warm * (0.55 + 0.45 * math.cos(math.pi * step / total)),
                "tokens_per_second": 1024 + rng.gauss(0, 12),
                "eta_seconds": (total - step) * STEP,
                "device_memory": 9.1e9,
                "device_memory_peak": 9.6e9,
                "device_utilization": 97.0,
            }
            made.append({"step": step, **figures, **more, **place})
        if step % evaluate == 0:
            validation = loss + 0.12 + rng.gauss(0, 0.01)
            scored = {"eval_loss": validation, "eval_perplexity": math.exp(validation), "eval_bits_per_byte": validation / 1.9}
            made.append({"step": step, **scored, "eval_runtime": 1.2, **place})
    return made


def sample(step: int, text: str = " main() {\n\tfmt.Println(x)\n}", prompt: str = "func", **more: Any) -> dict[str, Any]:
    """One line of ``samples.jsonl``."""
    return {"step": step, **more, "prompt": prompt, "strategy": "greedy", "settings": {"do_sample": False}, "text": text}


def lines(values: Iterable[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_run(folder: Path, logged: list[dict[str, Any]], samples: Iterable[dict[str, Any]] = (), total: int = 500) -> Path:
    """The folder of a run that no process holds and whose end was not written: as a kill leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": "0123456789ab",
        "starts": 1,
        "created": "2020-01-01T00:00:00Z",
        "host": "trainer",
        "parameters": 3_945_984,
        "steps": total,
        "config": {"model": {"preset": "gpt2-10m"}, "training": {"max_steps": total}},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "run.lock").touch()
    (folder / "metrics.jsonl").write_text(lines(logged))
    (folder / "run.log").write_text("2020-01-01 01:00:00,000 INFO step 0/500 eval_loss=8.5\n")
    if samples:
        (folder / "samples.jsonl").write_text(lines(samples))
    return folder


def end(folder: Path, code: int = 0, reason: str = "finished", step: int = 500) -> None:
    """Write how it ended."""
    record = {
        "exit_code": code,
        "reason": reason,
        "finished": code == 0,
        "step": step,
        "starts": 1,
        "time": "2020-01-01T00:17:00Z",
    }
    (folder / "exit.json").write_text(json.dumps(record | {"undelivered_uploads": []}))


def checkpoint(folder: Path, step: int, committed: bool = True) -> Path:
    """A checkpoint of one small file."""
    from llmforge.checkpoints.manifest import write_manifest

    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"0" * 2000)
    if committed:
        write_manifest(path, "0123456789ab", step)
        os.utime(path / "manifest.json", (BEGAN + step * STEP,) * 2)
    return path


def uploads(folder: Path, **states: str) -> None:
    """``uploads.json``: checkpoints by step, ``_100="done"``."""
    made = {
        f"checkpoint{name.replace('_', '-')}": {"state": state, "bytes": 2000, "error": "503" if state == "failed" else None}
        for name, state in states.items()
    }
    record = {"remote": "gs://bucket/runs/demo", "superseded": 0, "checkpoints": made, "files": {}}
    (folder / "uploads.json").write_text(json.dumps(record))
