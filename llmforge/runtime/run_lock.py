"""One run, one process: a lock on a run's folder that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmforge.errors import ConfigError, StorageError
from llmforge.runtime.launch import rank, rank_zero_first
from llmforge.runtime.logs import logger, printable

LOCK = "run.lock"

#: A look at the lock (`holder`) holds it for an instant; a start that meets one tries again for so long.
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.05
#: Files open here whose locks a forked child must not keep alive.
_descriptors: set[int] = set()


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's folder, as it wrote itself down.

    Attributes:
        host: The machine's name; empty where the process has not written anything yet.
        pid: Its process id there; 0 where unknown.
        since: When it took the lock, in seconds since the epoch.
    """

    host: str = ""
    pid: int = 0
    since: float = 0.0

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {printable(self.host)} since {since}"

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(platform.node(), os.getpid(), round(time.time(), 3))

    @classmethod
    def read(cls, path: Path) -> Holder:
        """What a lock file says; an empty or damaged one says nothing."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(record["host"]), int(record["pid"]), float(record["since"]))
        return cls()

    def is_gone(self) -> bool:
        """Whether it is known to be dead: a process of this machine that is not there or began later (a pid used again)."""
        import psutil

        if not self.pid or self.host != platform.node():
            return False
        try:
            return psutil.Process(self.pid).create_time() > self.since + 2  # clocks of a process's start are coarse
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


class RunLock:
    """The lock on a run's folder.

    An operating system's lock (``flock``) on ``run.lock``: it ends with the process, however that ends,
    and the file's text (host, pid, time) is for messages only. On a file system without such locks
    the text decides: a holder of this machine that is gone is recovered, one of another machine is believed.

    Args:
        folder: The run's folder; it must be there.

    Raises:
        ConfigError: Another run holds the folder. Nothing in it was changed.
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path | str):
        self.path = Path(folder) / LOCK
        self._claim: Path | None = None
        descriptor = self._open()
        try:
            while True:
                locked = _flock(descriptor, patience=_PATIENCE_SECONDS)
                if locked is False:
                    raise _refusal(Path(folder), Holder.read(self.path))
                if locked is None or _is(descriptor, self.path):
                    break
                os.close(descriptor)  # its holder has removed it meanwhile, and what is locked is no lock
                descriptor = self._open()
            if locked is None:
                logger.warning("%s has no file locks: a second run in this folder is known by host and process id only", folder)
                self._claim = _claim(Path(folder))
            _write(descriptor, Holder.here())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor
        _let_go_in_children()
        _descriptors.add(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StorageError(
                f"--output_dir {self.path.parent} cannot be written: {error.strerror}.", "Choose another folder."
            ) from error

    def release(self, remove: bool = False) -> None:
        """Give the folder free; a second time does nothing.

        Args:
            remove: Remove the folder, if nothing but the lock is in it.
        """
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                if remove and all(path.name.startswith(LOCK) for path in self.path.parent.iterdir()):
                    self.path.unlink()  # while it is held: whoever waits for it looks whether it is still there
            _descriptors.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        if self._claim is not None:
            self._claim.unlink(missing_ok=True)
            self._claim = None
        if remove:
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()


@contextlib.contextmanager
def alone_in(folder: Path | str, check: Callable[[], None], begins: bool = True) -> Iterator[None]:
    """Hold the folder of a run in this block, and make it: in the process of rank 0, for all the processes of the run.

    Args:
        folder: The run's.
        check: What is to hold in the folder once it is locked; whatever it raises is raised.
        begins: Whether the run begins in the block. Otherwise a folder that was made here is removed when the block fails.

    Raises:
        ConfigError, StorageError: As `RunLock`.
    """
    path = Path(folder)
    held: list[RunLock] = []
    failed = made = False

    def take() -> None:
        nonlocal made
        made = _make(path)
        if rank() == 0:
            held.append(RunLock(path))
            check()

    try:
        rank_zero_first()(take)
        yield
    except BaseException:
        failed = True
        raise
    finally:
        for lock in held:
            lock.release(remove=failed and made and not begins)


def _make(folder: Path) -> bool:
    """Whether the folder was not there before."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            return False
        raise StorageError(f"--output_dir {folder} cannot be made: {error.strerror}.", "Choose another folder.") from error
    return True


def holder(folder: Path | str) -> Holder | None:
    """Who runs in `folder` now; None for nobody. Changes nothing there."""
    path = Path(folder) / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        locked = _flock(descriptor, shared=True)
        if locked is None:
            found = Holder.read(_claim_path(Path(folder)))
            return found if found.pid and not found.is_gone() else None
        return None if locked else Holder.read(path)
    finally:
        os.close(descriptor)


def refuse_running(folder: Path | str) -> None:
    """Refuse a folder in which a run is going on.

    Raises:
        ConfigError: It is; the process is named.
    """
    found = holder(folder)
    if found is not None:
        raise _refusal(Path(folder), found)


def _refusal(folder: Path, found: Holder) -> ConfigError:
    who = "this process" if found.pid == os.getpid() and found.host == platform.node() else str(found)
    return ConfigError(f"--output_dir {folder} is in use by {who}.", "Wait until that run ends, stop it, or give another folder.")


def _flock(descriptor: int, shared: bool = False, patience: float = 0.0) -> bool | None:
    """Whether the lock was got; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return None
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return None
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _write(descriptor: int, who: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(asdict(who)) + "\n").encode(), 0)


def _claim_path(folder: Path) -> Path:
    return folder / f"{LOCK}.claim"


def _claim(folder: Path) -> Path:
    """Take a folder without locks: by a file that only one process can make."""
    path = _claim_path(folder)
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            found = Holder.read(path)
            if not found.is_gone():
                who = found if found.pid else Holder(platform.node(), 0)
                refusal = _refusal(folder, who)
                refusal.remedy += f" If you know that it is gone, delete {path}."
                raise ConfigError(refusal.problem, refusal.remedy) from None
            _recover(path, found)
            continue
        try:
            _write(descriptor, Holder.here())
        finally:
            os.close(descriptor)
        return path
    raise _refusal(folder, Holder.read(path))


def _recover(path: Path, found: Holder) -> None:
    """Take the claim of a dead holder away; where another process was quicker, it is the other's and stays."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if Holder.read(aside) != found:
            os.link(aside, path)
        aside.unlink()


@functools.cache
def _let_go_in_children() -> None:
    """A lock belongs to the open file, which forked workers inherit; they may outlive a killed run by seconds."""

    def close(_: Any = None) -> None:
        for descriptor in _descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        _descriptors.clear()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)
