"""`llmforge checkpoints upload` and `download`: by hand what a run with ``--remote`` and ``--resume URL`` do by themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.fetch import best_step_in, download_checkpoint, fetch_records
from llmforge.checkpoints.manifest import is_committed, list_checkpoints
from llmforge.checkpoints.mirrored import read_remote_manifest, remote_checkpoints, split_url
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.checkpoints.status import read_record
from llmforge.checkpoints.summary import find
from llmforge.checkpoints.sync import Mirror
from llmforge.checkpoints.uploads import read_uploads
from llmforge.configs.remote import RemoteArguments, run_url
from llmforge.errors import CheckpointError, ConfigError, StorageError
from llmforge.runtime.run_folder import RUN_RECORD, RUNS_ROOT, correct_exit
from llmforge.runtime.run_lock import RunLock

#: Rounds over what could not be sent, and seconds between them; each request has attempts of its own below that.
_ROUNDS, _PAUSE = 3, 2.0


def upload(run: Path, names: Sequence[str], every: bool, remote: str | None) -> dict[str, Any]:
    """Upload checkpoints of a run that does not go on, and its records; what is in the store already is not sent again.

    Args:
        names: Of checkpoints, as `summary.find` knows them.
        every: All committed ones.
        remote: Where, as ``--remote``; None where the run itself was mirrored.

    Returns:
        ``remote``, ``uploaded`` and ``bytes`` for ``--json``.

    Raises:
        CheckpointError: No such checkpoint, or one that was never committed.
        ConfigError: Neither names nor `every`; nothing says where; the run goes on; another run is there.
        StorageError: Something could not be sent.
    """
    if bool(names) == every:
        raise ConfigError("llmforge checkpoints upload: which?", "Name checkpoints, or give --all.")
    if not (run / RUN_RECORD).is_file():
        raise CheckpointError(f"{run} holds no run: there is no {RUN_RECORD}.", "Give the folder of a run.")
    chosen = list_checkpoints(run) if every else [find(run, name) for name in names]
    for path in chosen:
        if not is_committed(path):
            raise CheckpointError(f"{path.name} was never committed, and is not uploaded.", "Choose another one.")
    record = read_record(run / RUN_RECORD)
    courier = Courier(_destination(run, record, remote), apart=False)
    lock = RunLock(run)
    try:
        courier.ask("refuse_other_run", record.get("run_id"))
        mirror = Mirror(run, courier, RemoteArguments(), str(record.get("run_id")))
        left = mirror.send([path.name for path in chosen])
        for _ in range(_ROUNDS - 1):
            if left:
                time.sleep(_PAUSE)
                left = mirror.send([path.name for path in chosen if path.name in left])
        _correct_end(run, mirror)
        if left:
            known = mirror.uploads.checkpoints.get(left[0]) or mirror.uploads.files.get(left[0])
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise StorageError(
                f"Not uploaded: {left[0]}{more}: {known.error if known else None}",
                "What arrived is not sent again: try once more.",
            )
        sent = sum(mirror.uploads.checkpoints[path.name].bytes for path in chosen)
        return {"remote": courier.url, "uploaded": [path.name for path in chosen], "bytes": sent}
    finally:
        courier.close()
        lock.release()


def _destination(run: Path, record: dict[str, Any], remote: str | None) -> str:
    """The URL of the run's folder in the store: as given, as it was mirrored to, or as it was told to be."""
    told = RemoteArguments(remote=remote).remote
    known = read_uploads(run)
    if told is None and known is not None and known.remote:
        return known.remote
    if told is None:
        config = record.get("config")
        told = ((config if isinstance(config, dict) else {}).get("remote") or {}).get("remote")
    if not isinstance(told, str):
        raise ConfigError(f"{run} was trained without --remote.", "Say where to: --remote gs://bucket/prefix.")
    return run_url(told, run)


def _correct_end(run: Path, mirror: Mirror) -> None:
    """Have ``exit.json`` name what is undelivered now, and the store's copy of it too."""
    if correct_exit(run, mirror.undelivered()):
        mirror.send([])


def download(url: str, name: str, folder: Path | None) -> dict[str, Any]:
    """Download a checkpoint of a run in a store, with the run's records, into a folder that ``--resume`` goes on from.

    Args:
        url: Of the run; or of the checkpoint, which is then the one.
        name: ``checkpoint-500``, ``500``, ``newest`` or ``best``.
        folder: Into which; ``runs/<name of the run>`` if not given.

    Returns:
        ``checkpoint`` (its path) and ``bytes`` for ``--json``.

    Raises:
        CheckpointError: There is none, or it is damaged in the store.
        ConfigError: The folder is another run's, or a run goes on in it.
        StorageError: The store cannot be read, or the disk not written.
    """
    run, last = split_url(url)
    remote = RemoteFolder(run)
    names = remote_checkpoints(remote)
    if not names:
        raise CheckpointError(
            f"{remote.url} has no checkpoint.", "Give the URL of a run: what --remote said, and the run's name."
        )
    wanted = _named(remote, names, last if last != "newest" and name == "newest" else name)
    target = folder or RUNS_ROOT / run.rpartition("/")[2]
    manifest = read_remote_manifest(remote, wanted)
    if (target / RUN_RECORD).exists() and read_record(target / RUN_RECORD).get("run_id") != manifest.run_id:
        raise ConfigError(f"--output_dir {target} holds another run than {remote.url}.", "Give another folder.")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--output_dir {target} cannot be made: {error.strerror}.", "Choose another folder.") from error
    lock = RunLock(target)
    try:
        path = download_checkpoint(remote, wanted, target)
        fetch_records(remote, str(target))
    finally:
        lock.release()
    return {"checkpoint": str(path), "bytes": manifest.size, "from": f"{remote.url}/{wanted}"}


def _named(remote: RemoteFolder, names: Sequence[str], name: str) -> str:
    """Which of the checkpoints in a store is meant."""
    if name == "newest":
        return names[-1]
    if name == "best":
        step = best_step_in(remote, names[-1])
        if step is None:
            raise CheckpointError(f"{remote.url} has no best checkpoint: nothing was evaluated.", "Give a name.")
        name = str(step)
    wanted = f"checkpoint-{Path(name).name.removeprefix('checkpoint-')}"
    if wanted not in names:
        raise CheckpointError(f"{remote.url} has no {wanted}.", f"It has {', '.join(names)}.")
    return wanted
