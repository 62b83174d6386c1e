"""Made-up run folders: committed checkpoints with every file that resuming looks for, and nothing of torch in them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from llmforge.checkpoints.manifest import write_manifest

RUN_ID = "0123456789ab"


def made_checkpoint(run: Path, step: int, size: int = 5_000, run_id: str = RUN_ID) -> Path:
    """A committed checkpoint whose files hold noise of their own, the model `size` bytes and the optimizer twice that."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    source = random.Random(f"{run_id} {step}")
    for name, length in (("model.safetensors", size), ("optimizer.pt", 2 * size), ("scheduler.pt", 300), ("rng_state.pth", 700)):
        (folder / name).write_bytes(source.randbytes(length))
    history = [{"step": number, "loss": 6 - number / 100, "learning_rate": 1e-3} for number in range(1, step + 1)]
    history.append({"step": step, "eval_loss": 3 + step / 100})
    state = {"global_step": step, "best_global_step": 1, "best_metric": 3.0, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 400}))
    (folder / "metadata.json").write_text(json.dumps({"timestamp": "2026-01-02T03:04:05+00:00", "trend": "falling"}))
    write_manifest(folder, run_id, step)
    return folder


def made_run(run: Path, *steps: int, size: int = 5_000, run_id: str = RUN_ID, **records: object) -> Path:
    """A run's folder with the checkpoints of `steps`; `records` are further fields of its ``run.json``."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({"run_id": run_id, "name": run.name, **records}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0}\n')
    for step in steps:
        made_checkpoint(run, step, size, run_id)
    return run


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by its name there."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
