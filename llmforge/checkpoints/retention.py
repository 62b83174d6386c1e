"""Which checkpoints are kept: by step, whatever the clock says."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from llmforge.checkpoints.commit import delete
from llmforge.checkpoints.manifest import checkpoint_step, list_checkpoints
from llmforge.errors import StorageError
from llmforge.runtime.logs import logger


def superfluous(steps: Collection[int], limit: int | None, pinned: Collection[int]) -> list[int]:
    """The steps whose checkpoints can go, the oldest first.

    Args:
        steps: Of the committed checkpoints.
        limit: How many to keep, as ``--save_total_limit``; None or 0 keeps all.
        pinned: Steps to keep whatever the limit; they count towards it. The newest always is.
    """
    if not limit or limit < 0:
        return []
    kept = set(pinned) & set(steps) | set(sorted(steps)[-1:])
    for step in sorted(steps, reverse=True):
        if len(kept) >= limit:
            break
        kept.add(step)
    return sorted(set(steps) - kept)


def prune(run_dir: Path, limit: int | None, pinned: Collection[int] = ()) -> list[int]:
    """Delete the committed checkpoints that can go (see `superfluous`) and return their steps.

    Folders that were never committed are left alone. What cannot be deleted is told and stays.
    """
    by_step = {checkpoint_step(path) or 0: path for path in list_checkpoints(run_dir)}
    gone = []
    for step in superfluous(by_step, limit, pinned):
        try:
            delete(by_step[step])
            gone.append(step)
        except StorageError as error:
            logger.warning("%s", error)
    return gone
