"""Small checkpoints, and stores to put them into."""

from __future__ import annotations

from pathlib import Path

from llmforge.checkpoints.manifest import write_manifest

FILES = ("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt")


def checkpoint(run: Path, step: int, run_id: str = "run", best: int | None = None, content: str = "") -> Path:
    """A committed one, whose files hold a few bytes each."""
    path = run / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text(f"{name} of {step} {content}")
    state = f'{{"best_global_step": {"null" if best is None else best}, "log_history": []}}'
    (path / "trainer_state.json").write_text(state)
    write_manifest(path, run_id, step)
    return path
