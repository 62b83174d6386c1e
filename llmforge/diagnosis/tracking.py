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
    mode = _wandb()
    if not problem:
        yield Finding("trackers", "ok", f"TensorBoard writes events; W&B {mode}")


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


def _wandb() -> str:
    if find_spec("wandb") is None:
        return "is not installed"
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return f"is {mode} by WANDB_MODE"
    try:
        mode = wandb_mode(os.environ)
    except Exception as error:  # whatever its settings files hold
        return f"cannot be imported or set up ({type(error).__name__})"
    return "is logged in and online" if mode in ("online", "run", "shared") else "is offline (wandb login changes that)"
