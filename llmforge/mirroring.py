"""A run and its mirror in a store: checked before anything slow, restored from at a resume, drained at the end."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from llmforge.callbacks.checkpoint_sync import CheckpointSync
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.manifest import checkpoint_step, read_manifest
from llmforge.checkpoints.mirrored import split_url
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.remote import run_url, shown_url
from llmforge.configs.run import RunConfig
from llmforge.errors import CheckpointError, ConfigError
from llmforge.runtime.launch import local_world_size, on_first_machine, rank, world_size
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import RUN_RECORD, RUNS_ROOT, RunFolder
from llmforge.runtime.signals import stop_signals
from llmforge.storage.records import read_json

#: Seconds from the signal on in which uploads are waited for, whatever else took of them: schedulers kill after 30.
_GRACE = 20.0
#: Without an answer for so many seconds it is said that the store is waited for: libraries look for credentials for a minute.
_PATIENCE = 5.0
#: Seconds for the record of the end; of a run that was asked to stop, so many after those.
_LAST_WORDS, _FEW_LAST_WORDS = 10.0, 3.0


def is_remote(resume: str | None) -> bool:
    """Whether ``--resume`` was given a URL."""
    return resume is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", resume) is not None


def default_folder(resume: str) -> str:
    """Where a run goes on whose URL alone is given."""
    return str(RUNS_ROOT / split_url(resume)[0].rpartition("/")[2])


def mirror_url(config: RunConfig) -> str | None:
    """The run's place in the store; None without ``--remote``."""
    return run_url(config.remote.remote, config.training.output_dir or config.name) if config.remote.remote else None


def _source(config: RunConfig) -> tuple[str, str] | None:
    """Where else than on the disk there may be something to resume from, and what."""
    if is_remote(config.run.resume):
        return split_url(str(config.run.resume))
    url = mirror_url(config)
    return (url, "newest") if url and config.run.resume == "newest" else None


@contextlib.contextmanager
def _courier(url: str) -> Iterator[Courier]:
    courier = Courier(url)
    try:
        yield courier
    finally:
        courier.close()


@contextlib.contextmanager
def _told_of_waiting(url: str) -> Iterator[None]:
    text = "no answer from %s yet: its credentials and the network are tried for up to a minute"
    timer = threading.Timer(_PATIENCE, logger.info, (text, url))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_remote(config: RunConfig) -> None:
    """See that the store can be written, read and deleted from, and that no other run is where this one goes.

    Raises:
        ConfigError: Another run is there; or several machines, each of which would restore for itself.
        StorageError: The store cannot be used.
    """
    url = mirror_url(config)
    if is_remote(config.run.resume) and world_size() > local_world_size():
        raise ConfigError(
            f"--resume {shown_url(str(config.run.resume))} on several machines.",
            "Fetch it once, by llmforge checkpoints download, into the --output_dir that all of them see.",
        )
    if url is None or not on_first_machine():
        return
    with _courier(url) as courier:
        logger.info("mirror: %s, background upload %s", courier.url, "on" if config.remote.background_upload else "off")
        with _told_of_waiting(courier.url):
            courier.ask("probe")
        if config.training.output_dir and not config.run.resume:
            courier.ask("refuse_other_run", None)


def fetch_records(config: RunConfig, path: Path) -> None:
    """Bring ``run.json``, ``run.log`` and the like to a machine that has none of them."""
    source = _source(config)
    if source is not None and not (path / RUN_RECORD).exists() and world_size() == local_world_size():
        with _courier(source[0]) as courier, _told_of_waiting(courier.url):
            courier.ask("records", str(path))


def wanted_here(resume: str) -> str | None:
    """What of ``--resume`` is looked for on the disk: with a run's URL the newest, with a checkpoint's nothing."""
    if not is_remote(resume):
        return resume
    return "newest" if split_url(resume)[1] == "newest" else None


def restore(config: RunConfig, path: Path, local: Path | None) -> Path | None:
    """The checkpoint to go on from: `local`, or one from the store that is newer, or exactly the one that was named.

    Args:
        local: The newest sound one here.

    Raises:
        CheckpointError: What was named is not there, or is damaged.
        ConfigError: The store holds another run.
        StorageError: The store cannot be read, or the disk not written.
    """
    source = _source(config)
    if source is None or world_size() > local_world_size():
        return local
    url, which = source
    named = is_remote(config.run.resume)
    record = path / RUN_RECORD  # which may have come from the store
    if named and local is not None and record.exists() and read_manifest(local).run_id != read_json(record)["run_id"]:
        raise ConfigError(f"{path} holds another run than {shown_url(url)}.", "Give another --output_dir.")
    with _courier(url) as courier:
        found = courier.ask("restore", str(path), which, -1 if local is None else checkpoint_step(local) or 0)
    if found is None and local is None and named:
        raise CheckpointError(f"--resume {courier.url}: there is no checkpoint there.", "Check the URL of the run.")
    if local is not None and found is not None:
        logger.info("%s, from %s, is newer than %s, the newest here", Path(found).name, courier.url, local.name)
    elif local is not None:
        logger.info("%s here is taken: %s has none that is newer", local.name, courier.url)
    if named and config.remote.remote is None:
        logger.warning("what is trained from here on is not mirrored; --remote does that")
    return Path(found) if found is not None else local


def open_mirror(config: RunConfig, run: RunFolder) -> Mirror | None:
    """The mirror of a run, in its first process, and in `run.callbacks` what hangs it on the training; None without one.

    Raises:
        ConfigError: Another run is where this one goes.
        StorageError: The store cannot be read.
    """
    url = mirror_url(config)
    if url is None or rank() != 0:
        return None
    courier = Courier(url)
    try:
        courier.ask("refuse_other_run", _known_id(run))
        courier.ask("forget_end")
    except BaseException:
        courier.close()
        raise
    mirror = Mirror(run.path, courier, config.remote, run.run_id)
    run.callbacks.append(CheckpointSync(mirror))
    return mirror


def _known_id(run: RunFolder) -> str:
    record = run.path / RUN_RECORD
    return str(read_json(record)["run_id"]) if record.exists() else run.run_id


def undelivered(mirror: Mirror | None) -> list[str]:
    """What has not reached the store, by name."""
    return mirror.undelivered() if mirror is not None else []


def drain(mirror: Mirror, config: RunConfig) -> list[str]:
    """Wait for what is not uploaded yet, within bounds, and return what was not; a second Ctrl-C ends it."""
    try:
        return mirror.drain(config.remote.drain_seconds, lambda: _left(_GRACE))
    except KeyboardInterrupt:
        return mirror.undelivered()


def _left(grace: float) -> float | None:
    """The seconds that are left of so many since the run was asked to stop; None where it was not."""
    if stop_signals.insisted:
        return 0.0
    return max(stop_signals.asked_at + grace - time.monotonic(), 0.0) if stop_signals.asked else None


def close(mirror: Mirror | None) -> None:
    """Send the record of the end, too, and end the mirror."""
    if mirror is not None:
        try:
            left = _left(_GRACE + _FEW_LAST_WORDS)
            mirror.send_last(_LAST_WORDS if left is None else min(left, _LAST_WORDS))
        finally:
            mirror.close()
