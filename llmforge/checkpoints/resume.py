"""Which checkpoint a run goes on from."""

from __future__ import annotations

import re
from pathlib import Path

from llmforge.errors import CheckpointError
from llmforge.runtime.logs import logger

#: Without any of these a resumed run would silently go on with fresh state.
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "config.json")
_NAME = re.compile(r"checkpoint-(\d+)")


def missing_file(checkpoint: Path) -> str | None:
    """The first file a checkpoint lacks to be resumed from, None when all are there."""
    for name in _NEEDED:
        if not (checkpoint / name).is_file():
            return name
    if not any(checkpoint.glob("model*.safetensors")):
        return "model.safetensors"
    return None if any(checkpoint.glob("rng_state*.pth")) else "rng_state.pth"


def find_checkpoint(run_folder: Path, which: str = "newest") -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        run_folder: The run's folder.
        which: ``newest``, the name of a checkpoint in the folder, or a path.

    Returns:
        A checkpoint with every file that resuming reads; None where the newest was asked
        for and none was ever saved.

    Raises:
        CheckpointError: The one named cannot be used, or all there are cannot.
    """
    if which != "newest":
        named = next((path for path in (run_folder / which, Path(which)) if path.is_dir()), None)
        if named is None:
            raise CheckpointError(f"--resume {which}: no such checkpoint in {run_folder}.", "Give --resume alone for the newest.")
        lacking = missing_file(named)
        if lacking:
            raise CheckpointError(f"{named} has no {lacking}.", "Choose another checkpoint; --resume alone finds the newest.")
        return named
    found = sorted(
        ((int(match[1]), path) for path in run_folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))),
        reverse=True,
    )
    for _, path in found:
        lacking = missing_file(path)
        if lacking is None:
            return path
        logger.warning("%s has no %s: trying an older one", path.name, lacking)
    if found:
        raise CheckpointError(f"None of the {len(found)} checkpoints in {run_folder} is complete.", "Start a new run.")
    return None
