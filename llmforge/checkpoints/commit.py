"""How a checkpoint comes to be: written aside, listed, synced, and renamed into place in one step.

A process killed at any moment leaves every committed checkpoint as it was. What it leaves besides is
one of these, inside the run's folder, and no program takes them for checkpoints:

- ``.staging-checkpoint-<step>``: half-written; swept when the run goes on
- ``.download-checkpoint-<step>``: half-fetched from a store; a further download goes on with it, a run that goes on sweeps it
- ``.llmforge-trash``: being deleted; swept too
- ``set-aside/``: checkpoints that stood in the way and were not the run's to delete; never swept
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from llmforge.checkpoints.manifest import checkpoint_step, is_committed, read_manifest, verify, write_manifest
from llmforge.errors import StorageError
from llmforge.runtime.logs import logger
from llmforge.storage.files import sync_folder, sync_tree

_STAGING = ".staging-"
_TRASH = ".llmforge-trash"
#: Where a checkpoint from a store lies, beside its place, until all of it is there.
DOWNLOAD = ".download-"
#: Where a checkpoint goes that is in the way and may be somebody's.
SET_ASIDE = "set-aside"


def staging_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written; stock's rotation looks for ``checkpoint-*`` and does not find it."""
    return run_dir / f"{_STAGING}checkpoint-{step}"


def stage(run_dir: Path, step: int) -> Path:
    """Make the staging folder of `step`, empty.

    Raises:
        OSError: It cannot be made.
    """
    staging = staging_folder(run_dir, step)
    if staging.exists():  # of an attempt that was killed
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    return staging


def commit(staging: Path, run_id: str) -> Path:
    """Turn a staging folder in which every file is written into a committed checkpoint, and return that.

    Files and folders are synced, the manifest is written, the folder renamed and the run's folder synced,
    in this order. Something of the same name that was never committed, or is damaged, is moved aside.

    Raises:
        OSError, StorageError: The disk could not take it; nothing was committed.
    """
    target = staging.with_name(staging.name.removeprefix(_STAGING))
    step = checkpoint_step(target)
    assert step is not None
    sync_tree(staging)
    write_manifest(staging, run_id, step)
    sync_folder(staging)
    if target.exists():
        set_aside(target)
    os.rename(staging, target)
    sync_folder(target.parent)
    return target


def set_aside(folder: Path) -> Path:
    """Move a checkpoint into ``set-aside/`` beside it, under a name that is free there, and return where it is.

    Raises:
        OSError: It cannot be moved.
    """
    place = folder.parent / SET_ASIDE
    place.mkdir(exist_ok=True)
    number = 1
    while (aside := place / f"{folder.name}-{number}").exists():
        number += 1
    os.rename(folder, aside)
    sync_folder(place)
    sync_folder(folder.parent)
    logger.warning("%s was moved to %s/%s", folder.name, SET_ASIDE, aside.name)
    return aside


def begin_at(run_dir: Path, step: int) -> None:
    """A run begins at a step, for the first time or anew: what a killed process left is swept, later checkpoints move aside.

    Nobody else may be writing in the run's folder.

    Raises:
        StorageError: A later one cannot be moved.
    """
    _sweep(run_dir)
    _leave_only_until(run_dir, step)


def _sweep(run_dir: Path) -> None:
    """Remove what a killed process had half-written, half-fetched or half-deleted."""
    for begun in (*run_dir.glob(f"{_STAGING}checkpoint-*"), *run_dir.glob(f"{DOWNLOAD}checkpoint-*")):
        shutil.rmtree(begun, ignore_errors=True)
    _empty_trash(run_dir)


def discard(staging: Path) -> None:
    """Remove a staging folder that is not to be committed; what cannot be removed now is swept later."""
    shutil.rmtree(staging, ignore_errors=True)


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint: moved into the trash in one step, so that none is ever seen half-deleted.

    Raises:
        StorageError: It cannot be moved; it is untouched.
    """
    trash = checkpoint.parent / _TRASH
    try:
        trash.mkdir(exist_ok=True)
        name, number = checkpoint.name, 0
        while (trash / name).exists():
            number += 1
            name = f"{checkpoint.name}-{number}"
        os.rename(checkpoint, trash / name)
        sync_folder(checkpoint.parent)
    except OSError as error:
        raise StorageError(f"{checkpoint} cannot be deleted: {error.strerror or error}.") from error
    _empty_trash(checkpoint.parent)


def _empty_trash(run_dir: Path) -> None:
    trash = run_dir / _TRASH
    if trash.is_dir() and not trash.is_symlink():
        # Open elsewhere (NFS, Windows): tried again after the next deletion.
        shutil.rmtree(trash, ignore_errors=True)


def _leave_only_until(run_dir: Path, step: int) -> None:
    """Move checkpoints of later steps aside: the run goes on from `step`, and what comes after is made anew.

    Otherwise a later ``--resume`` would take one of them, of the course that was left, for the newest.

    Raises:
        StorageError: One cannot be moved.
    """
    later = [path for path in run_dir.glob("checkpoint-*") if (checkpoint_step(path) or 0) > step and path.is_dir()]
    for path in sorted(later, key=lambda path: -(checkpoint_step(path) or 0)):
        try:
            set_aside(path)
        except OSError as error:
            raise StorageError(f"{path} cannot be moved aside: {error.strerror or error}.") from error


def stands(target: Path, run_id: str) -> bool:
    """Whether the checkpoint `target` of this run is there already, committed and sound, and so has not to be made."""
    return is_committed(target) and not verify(target) and read_manifest(target).run_id == run_id
