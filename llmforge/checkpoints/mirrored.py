"""Checkpoints in a store: one exists there once its ``manifest.json`` does, which comes last and goes first."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from llmforge.checkpoints.checksums import digest_file
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.manifest import (
    MANIFEST,
    SET_ASIDE_MANIFEST,
    FileEntry,
    Manifest,
    checkpoint_step,
    parse_manifest,
    read_manifest,
)
from llmforge.checkpoints.objects import PARTS
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.errors import CheckpointError, ConfigError
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import DIVERGENCE, EXIT_RECORD, RUN_RECORD


def split_url(url: str) -> tuple[str, str]:
    """The URL of a run, and the name of a checkpoint or ``newest``, from ``…/run`` or ``…/run/checkpoint-N``."""
    run, _, last = url.rstrip("/").rpartition("/")
    return (run, last) if checkpoint_step(Path(last)) is not None else (url.rstrip("/"), "newest")


def remote_checkpoints(remote: RemoteFolder) -> list[str]:
    """The names of the checkpoints that exist at `remote`, by step, the newest last; one listing."""
    found = {}
    for name in remote.names():
        checkpoint, _, file = name.partition("/")
        step = checkpoint_step(Path(checkpoint))
        if step is not None and file == MANIFEST:
            found[step] = checkpoint
    return [found[step] for step in sorted(found)]


def remote_leftovers(remote: RemoteFolder) -> list[str]:
    """The names of checkpoints at `remote` that do not exist, of which files do: an upload or a deletion was broken off."""
    files: dict[str, set[str]] = {}
    for name in remote.sizes():
        checkpoint, _, file = name.removeprefix(f"{PARTS}/").partition("/")
        if checkpoint_step(Path(checkpoint)) is not None:
            files.setdefault(checkpoint, set()).add(file)
    return sorted(name for name, there in files.items() if not there & {MANIFEST, SET_ASIDE_MANIFEST})


def read_remote_manifest(remote: RemoteFolder, name: str) -> Manifest:
    """The manifest of a checkpoint in a store.

    Raises:
        CheckpointError: There is none, or it is damaged or of another step.
        RemoteError: The store cannot be read.
    """
    shown = f"{remote.url}/{name}"
    try:
        manifest = parse_manifest(remote.read(f"{name}/{MANIFEST}"), f"{shown}/{MANIFEST}")
    except RemoteError as error:
        if error.kind != "missing":
            raise
        raise CheckpointError(f"{shown} has no {MANIFEST}: there is no such checkpoint, or not yet.") from error
    if manifest.step != checkpoint_step(Path(name)):
        raise CheckpointError(f"{shown}/{MANIFEST} is damaged: it is of step {manifest.step}.")
    return manifest


def remote_run_id(remote: RemoteFolder) -> str | None:
    """The id of the run at `remote`; None where there is none.

    Raises:
        RemoteError: The store cannot be read.
    """
    try:
        value = json.loads(remote.read(RUN_RECORD))
        if isinstance(value, dict) and isinstance(value.get("run_id"), str):
            return str(value["run_id"])
    except RemoteError as error:
        if error.kind != "missing":
            raise
    except ValueError:
        logger.warning("%s/%s is damaged", remote.url, RUN_RECORD)
    for name in reversed(remote_checkpoints(remote)):
        try:
            return read_remote_manifest(remote, name).run_id
        except CheckpointError as error:
            logger.warning("%s", error)
    return None


def refuse_other_run(remote: RemoteFolder, run_id: str | None) -> None:
    """See that the place is free, or this run's.

    Raises:
        ConfigError: Another run is there.
        RemoteError: The store cannot be read.
    """
    there = remote_run_id(remote)
    if there is not None and there != run_id:
        raise ConfigError(
            f"--remote: {remote.url} already holds another run, {there}.",
            "Give another --output_dir or --remote; or --resume with that URL, to go on with it.",
        )


def send_checkpoint(remote: RemoteFolder, checkpoint: Path) -> int:
    """Upload a committed checkpoint, its manifest last, and return the bytes that were sent.

    What an earlier attempt brought there is not sent again.

    Raises:
        CheckpointError: It is damaged here.
        RemoteError: The store failed, or holds a checkpoint of another run under this name.
    """
    manifest, name = read_manifest(checkpoint), checkpoint.name
    there = remote.sizes(name)
    if f"{name}/{MANIFEST}" in there:
        try:
            known = read_remote_manifest(remote, name)
        except CheckpointError:
            known = None
        if known == manifest:
            return 0
        if known is not None and known.run_id != manifest.run_id:
            raise RemoteError(f"{remote.url}/{name} is of another run.", "Choose another --remote.", "refused")
        remote.delete(f"{name}/{MANIFEST}")  # of the same step, made anew: it does not exist until the new one is whole

    def send(item: tuple[str, FileEntry]) -> int:
        file, entry = item
        path, target = checkpoint / file, f"{name}/{file}"
        digest = digest_file(path, remote.protocol)
        if digest.sha256 != entry.sha256:
            raise CheckpointError(f"{path} is damaged: it has another SHA-256 than {MANIFEST} says, and is not uploaded.")
        return remote.put(path, target, digest, there.get(target) == entry.size)

    largest_first = sorted(manifest.files.items(), key=lambda item: -item[1].size)
    sent = sum(remote.each(send, largest_first))
    for left in set(there) - {f"{name}/{file}" for file in manifest.files} - {f"{name}/{MANIFEST}"}:
        remote.delete(left)
    remote.discard_parts(name)  # of files that were put together just before a process was killed
    return sent + remote.put(checkpoint / MANIFEST, f"{name}/{MANIFEST}")


def delete_checkpoint(remote: RemoteFolder, name: str, run_id: str, uploaded: bool = False) -> bool:
    """Delete a checkpoint in a store, its manifest first; whether that was done.

    Args:
        run_id: It must be of this run.
        uploaded: Delete what has no manifest, too: this run's own upload of it was broken off.

    Raises:
        RemoteError: The store failed; what is left of it is no checkpoint any more.
    """
    if checkpoint_step(Path(name)) is None:
        raise RemoteError(f"{remote.url}/{name} is no checkpoint.", kind="refused")
    try:
        if read_remote_manifest(remote, name).run_id != run_id:
            logger.warning("%s/%s is of another run and stays", remote.url, name)
            return False
    except CheckpointError as error:
        if not uploaded:
            logger.warning("%s It stays.", error)
            return False
    remote.delete(f"{name}/{MANIFEST}")
    remote.each(remote.delete, remote.names(name))
    remote.discard_parts(name)
    return True


def begin_at(remote: RemoteFolder, step: int, run_id: str, waiting: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """A run begins at a step, for the first time or anew: what the store holds of an end, and of later steps, is no more.

    The record of the end is deleted, later checkpoints are withdrawn, and parts of files that nobody goes on with are
    discarded; that comes to no harm where it fails, and is left then.

    Args:
        waiting: Names of the checkpoints still to be uploaded, whose parts are of use.

    Returns:
        The checkpoints that were withdrawn; and those of which there are files and no manifest, from uploads of this run.

    Raises:
        RemoteError: The store failed.
    """
    forget_end(remote)
    withdrawn = withdraw_after(remote, step, run_id)
    for name in remote.sizes(PARTS):
        if name.split("/")[1] not in waiting:
            _try_to_delete(remote, name)
    return withdrawn, remote_leftovers(remote) if remote_run_id(remote) == run_id else []


def forget_end(remote: RemoteFolder) -> None:
    """Delete the record of how the run ended, which goes on.

    Raises:
        RemoteError: The store cannot be listed.
    """
    there = remote.sizes()
    for name in (EXIT_RECORD, DIVERGENCE):
        if name in there:
            _try_to_delete(remote, name)


def _try_to_delete(remote: RemoteFolder, name: str) -> None:
    """Where deleting is not allowed, say, nothing else is to wait for it."""
    try:
        remote.delete(name)
    except RemoteError as error:
        logger.warning("%s/%s stays for now: %s", remote.url, name, error)


def withdraw_after(remote: RemoteFolder, step: int, run_id: str) -> list[str]:
    """Make checkpoints of later steps no checkpoints, whose files stay: the run goes on from `step` in another course.

    The files are replaced when the run comes to that step again; nothing else deletes them.

    Returns:
        Their names.
    """
    withdrawn = []
    for name in remote_checkpoints(remote):
        if (checkpoint_step(Path(name)) or 0) <= step:
            continue
        try:
            own = read_remote_manifest(remote, name).run_id == run_id
        except CheckpointError as error:  # nobody can go on from it either
            logger.warning("%s", error)
            own = True
        if own:
            remote.rename(f"{name}/{MANIFEST}", f"{name}/{SET_ASIDE_MANIFEST}")
            withdrawn.append(name)
    return withdrawn
