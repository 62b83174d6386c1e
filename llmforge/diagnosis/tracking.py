"""Trackers: whether TensorBoard's events can be written, and what W&B would do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from llmforge.diagnosis.findings import Finding
from llmforge.runtime.trackers import wandb_mode


def look_at_trackers(tell: Callable[[str], None]) -> Iterator[Finding]:
    """A line for each; nothing goes over the network.

    Args:
        tell: Is told what comes next.
    """
    tell("TensorBoard")
    problem = _tensorboard()
    if problem:
        remedy = "pip install --upgrade tensorboard, or train with --report_to none"
        yield Finding("trackers", "failure", f"TensorBoard, the default tracker, {problem}.", remedy, "broken-installation")
    tell("W&B")
    mode, broken = _wandb()
    if broken:
        remedy = "pip install --upgrade wandb, if you want it"
        yield Finding("trackers", "note", f"W&B is installed, and {broken}.", remedy, "broken-installation")
    if not problem:
        yield Finding("trackers", "ok", f"TensorBoard writes events{f'; W&B {mode}' if mode else ''}")


def _tensorboard() -> str:
    """What is wrong with it; empty where an event was written."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                writer.add_scalar("loss", 1.0, 1)
            written = sum(path.stat().st_size for path in Path(folder).iterdir())
    except Exception as error:  # of protobuf's, numpy's or its own
        return f"fails: {' '.join(f'{type(error).__name__}: {error}'.split())[:160]}"
    return "" if written else "wrote no event"


def _wandb() -> tuple[str, str]:
    """What it would do, and what is wrong with it; one of them is empty."""
    if find_spec("wandb") is None:
        return "is not installed", ""
    try:
        mode = wandb_mode(os.environ)
    except Exception as error:  # whatever its settings files hold
        return "", f"cannot be set up ({' '.join(f'{type(error).__name__}: {error}'.split())[:120]})"
    if os.environ.get("WANDB_MODE"):
        return f"is {os.environ['WANDB_MODE']} by WANDB_MODE", ""
    return ("is logged in and online" if mode in ("online", "run", "shared") else "is offline (wandb login changes that)"), ""
