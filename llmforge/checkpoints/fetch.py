"""Brings checkpoints, and the records of their run, back from a store: verified, and never half."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from llmforge.checkpoints.checksums import digest_file
from llmforge.checkpoints.commit import DOWNLOAD, set_aside
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.manifest import MANIFEST, FileEntry, Manifest, checkpoint_step, is_committed, read_manifest, verify
from llmforge.checkpoints.mirrored import read_remote_manifest, remote_checkpoints, remote_run_id
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.errors import CheckpointError, ConfigError, DataError, StorageError
from llmforge.runtime.devices import format_bytes
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import METRICS, RUN_RECORD, SAMPLES
from llmforge.storage.files import sync_folder, sync_tree
from llmforge.storage.records import read_json, write_text

_STATE = "trainer_state.json"
#: Of that file, in bytes: a million logged losses are some 100 MB.
_MOST_STATE = 1 << 28
#: What a run goes on writing, and would otherwise begin anew.
_RECORDS = (RUN_RECORD, METRICS, SAMPLES, "run.log")


def newest_remote(remote: RemoteFolder, above: int = -1) -> str | None:
    """The newest checkpoint in a store, by its manifest; damaged ones are told and passed over.

    Args:
        above: Only one of a later step.
    """
    for name in reversed(remote_checkpoints(remote)):
        if (checkpoint_step(Path(name)) or 0) <= above:
            break
        try:
            read_remote_manifest(remote, name)
            return name
        except CheckpointError as error:
            logger.warning("%s is passed over: %s", name, error)
    return None


def download_checkpoint(remote: RemoteFolder, name: str, run_dir: Path) -> Path:
    """Download one checkpoint into a run's folder, and return where it is.

    Every file is compared with the manifest. What a download that was killed has brought is not fetched again, and
    a checkpoint that is there already, and sound, is left as it is; what else stands in the way is moved aside.

    Raises:
        CheckpointError: It does not exist in the store, or is damaged there.
        RemoteError: The store cannot be read.
        StorageError: There is no room for it here.
    """
    manifest, target = read_remote_manifest(remote, name), run_dir / name
    if is_committed(target) and not verify(target) and read_manifest(target) == manifest:
        return target
    staging = run_dir / f"{DOWNLOAD}{name}"
    for left in run_dir.glob(f"{DOWNLOAD}*"):
        if left != staging:
            shutil.rmtree(left, ignore_errors=True)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        missing = {file: entry for file, entry in manifest.files.items() if not _is_there(staging / file, entry)}
        _require_room(staging, sum(entry.size for entry in missing.values()), f"{remote.url}/{name}")
        logger.info("downloading %s/%s, %s", remote.url, name, format_bytes(sum(entry.size for entry in missing.values())))
        remote.each(lambda item: _get(remote, name, staging, *item), sorted(missing.items(), key=lambda item: -item[1].size))
        _only(staging, manifest)
        write_text(staging / MANIFEST, remote.read(f"{name}/{MANIFEST}").decode("utf-8"))
        problems = verify(staging, deep=False)
        if problems or read_manifest(staging) != manifest:
            raise CheckpointError(f"{remote.url}/{name} changed while it was downloaded.", "Try again.")
        sync_tree(staging)
        if target.exists():
            set_aside(target)
        os.rename(staging, target)
        sync_folder(run_dir)
    except OSError as error:
        raise StorageError(f"Cannot write {staging}: {error.strerror or error}.", "Free some space and try again.") from error
    return target


def _get(remote: RemoteFolder, name: str, staging: Path, file: str, entry: FileEntry) -> None:
    try:
        remote.get(f"{name}/{file}", staging / file, entry.sha256)
    except RemoteError as error:
        if error.kind in ("corrupt", "missing"):
            raise CheckpointError(f"{error.problem}", "Take another checkpoint.") from error
        raise


def _is_there(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size and digest_file(path, "").sha256 == entry.sha256


def _only(staging: Path, manifest: Manifest) -> None:
    """Remove what is not in the manifest: of a download of the same step as it was before."""
    for path in staging.rglob("*"):
        if path.is_file() and path.relative_to(staging).as_posix() not in manifest.files:
            path.unlink()


def _require_room(folder: Path, needed: int, shown: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{shown} takes {format_bytes(needed)} and {folder.parent} has {format_bytes(free)} left.", "Free some space."
        )


def fetch_records(remote: RemoteFolder, run_dir: str) -> None:
    """Bring the records that a run goes on writing, those that are not here, or are longer in the store.

    Raises:
        RemoteError, StorageError: The store cannot be read, or the disk not written.
    """
    there = remote.sizes()
    for name in _RECORDS:
        path = Path(run_dir) / name
        if name in there and (not path.exists() or (name in (METRICS, SAMPLES) and path.stat().st_size < there[name])):
            remote.get(name, path)


def restore_run(remote: RemoteFolder, run_dir: str, which: str = "newest", above: int = -1) -> str | None:
    """Bring the checkpoint that a run goes on from, the best one that it refers to, and the run's records.

    Args:
        which: ``newest``, or the name of exactly the one.
        above: The step of the newest one here: only a later one is brought, and otherwise the best one alone.

    Returns:
        Where it is now; None where the store has no such.

    Raises:
        CheckpointError: The one named cannot be used; or there are some and none of them can, and `above` says that
            there is none here either.
        ConfigError: The folder here is of another run.
        RemoteError, StorageError: The store cannot be read, or the disk not written.
    """
    folder = Path(run_dir)
    if (folder / RUN_RECORD).exists():
        there = remote_run_id(remote)
        if there is not None and read_json(folder / RUN_RECORD).get("run_id") != there:
            raise ConfigError(f"{folder} holds another run than {remote.url}.", "Give another --output_dir.")
    if which != "newest":
        return _restore(remote, folder, which)
    names = [name for name in remote_checkpoints(remote) if (checkpoint_step(Path(name)) or 0) > above]
    reason = ""
    for name in reversed(names):
        try:
            return _restore(remote, folder, name)
        except CheckpointError as error:
            reason = str(error)
            logger.warning("%s is passed over: %s", name, error)
    if names and above < 0:
        raise CheckpointError(f"None of the {len(names)} checkpoints at {remote.url} can be used; the oldest: {reason}")
    if above >= 0:
        _restore_best(remote, folder / f"checkpoint-{above}")
    return None


def _restore(remote: RemoteFolder, folder: Path, name: str) -> str:
    path = download_checkpoint(remote, name, folder)
    _restore_best(remote, path)
    fetch_records(remote, str(folder))
    return str(path)


def _restore_best(remote: RemoteFolder, path: Path) -> None:
    """Bring the best checkpoint, as the one at `path` remembers it, where it is not here."""
    best = best_step_of(path)
    if best is not None and best != checkpoint_step(path) and not is_committed(path.parent / f"checkpoint-{best}"):
        try:
            download_checkpoint(remote, f"checkpoint-{best}", path.parent)
        except CheckpointError as error:
            logger.warning("the best checkpoint is not there any more: %s", error)


def best_step_of(checkpoint: Path) -> int | None:
    """The step of the best checkpoint, as this one remembers it; None where nothing was evaluated."""
    try:
        return _best_step(read_json(checkpoint / _STATE))
    except DataError:
        return None


def best_step_in(remote: RemoteFolder, name: str) -> int | None:
    """As `best_step_of`, of a checkpoint in a store.

    Raises:
        RemoteError: The store cannot be read.
    """
    try:
        return _best_step(json.loads(remote.read(f"{name}/{_STATE}", _MOST_STATE)))
    except (ValueError, RecursionError):
        return None


def _best_step(state: Any) -> int | None:
    step = state.get("best_global_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None
