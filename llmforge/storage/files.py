"""The one way this library touches files: whole or not at all.

Writers put their bytes beside the target, sync them and rename, so that a reader
never sees half a file, and a process killed at any moment leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llmforge.errors import StorageError

#: Folders that are still being written carry this prefix; nothing reads them.
PARTIAL_PREFIX = ".partial-"


#: A folder that is about to be replaced lies in one of these, under its own name, until the new one is in place.
_ASIDE_PREFIX = ".aside-"


#: A partial file or folder is claimed by its writer long before it is this old.
_UNCLAIMED_SECONDS = 2.0


#: Files that are synced at a time.
_SYNCED_TOGETHER = 8


#: Disk full, quota reached, file too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


#: A URL, its first group the protocol.
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(path: str) -> bool:
    """Whether `path` goes by a protocol; ``file://`` does not, it is a path like any other."""
    match = URL.match(path)
    return match is not None and match[1].lower() != "file"


def local_path(path: str) -> str:
    """A local path without ``file://``, and with the user's folder put in for ``~``."""
    return path[len("file://") :] if path.lower().startswith("file://") else os.path.expanduser(path)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (a no-op where folders cannot be opened)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file in `folder`, and `folder` itself, durable, and give files that a library made private the usual mode.

    Raises:
        OSError: The disk could not take them.
    """
    files: list[Path] = []
    folders = [folder]
    for path in folder.rglob("*"):
        (files if path.is_file() else folders).append(path)
    usual = 0o666 & ~_umask()
    for path in files:
        mode = path.stat().st_mode
        if usual & ~mode:  # safetensors writes for the owner alone
            os.chmod(path, stat.S_IMODE(mode) | usual)
    with ThreadPoolExecutor(_SYNCED_TOGETHER) as threads:
        list(threads.map(_sync_file, files))
        list(threads.map(sync_folder, folders))


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class Placing:
    """Where `new_file` leaves finished files to be synced and renamed by threads; a context manager, at whose end all are there.

    A disk syncs a dozen files in hardly more than the time of one. What could not be placed is raised at the end,
    or earlier by `new_file`.

    Args:
        waiting: So many may wait to be placed; each is an open file.
    """

    def __init__(self, waiting: int = 64):
        self._threads = ThreadPoolExecutor(_SYNCED_TOGETHER)
        self._pending: deque[Future[None]] = deque()
        self._waiting = waiting

    def __enter__(self) -> Placing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._threads.shutdown()

    def _take(self, file: _NewFile) -> None:
        self._pending.append(self._threads.submit(file.place))
        while len(self._pending) > self._waiting:
            self._pending.popleft().result()


@contextlib.contextmanager
def new_file(target: Path | str, placing: Placing | None = None) -> Iterator[Path]:
    """Yield a temporary path that becomes `target` when the block ends without an exception.

    Args:
        target: The file; the folders that it lies in are made.
        placing: Puts it in place later, with others.

    Raises:
        StorageError: The file could not be written; what stood there before is untouched.
    """
    file = _NewFile(Path(target))
    try:
        yield file.temporary
    except BaseException as error:  # of the caller's own reading, unless the disk is full
        file.discard()
        if is_disk_full(error):
            raise _cannot_write(file.target, error) from error
        raise
    if placing is None:
        file.place()
    else:
        placing._take(file)


class _NewFile:
    """A file that is being written beside its target."""

    def __init__(self, target: Path):
        self.target = target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=PARTIAL_PREFIX)
        except OSError as error:
            raise _cannot_write(target, error) from error
        self.temporary = Path(name)
        self._claim = _Claim(descriptor)

    def place(self) -> None:
        """Make it durable, and rename it to its target."""
        try:
            # mkstemp makes private files; give this one the usual mode.
            os.chmod(self.temporary, 0o666 & ~_umask())
            _sync_file(self.temporary)
            os.replace(self.temporary, self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            raise _cannot_write(self.target, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget it, unless it is in place."""
        self.temporary.unlink(missing_ok=True)
        self._claim.close()


def _cannot_write(target: Path, error: BaseException) -> StorageError:
    reason = getattr(error, "strerror", None) or (os.strerror(errno.ENOSPC) if is_disk_full(error) else error)
    return StorageError(f"Cannot write {target}: {reason}.", "Free some space or choose another folder.")


class _Claim:
    """A lock on a partial file or folder for as long as its writer lives, so that nobody sweeps it away."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.held = True
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError):  # held by another, or a system without locks, where nothing is ever swept
            self.held = False

    def close(self) -> None:
        os.close(self.descriptor)


def sweep_partial(folder: Path | str, name: str = "") -> None:
    """Remove what a killed process left half-written in `folder`, and put back what it had moved aside.

    Args:
        folder: Where targets of `new_file` and `new_folder` lie.
        name: Only what was to become a folder of this name; all if not given.
    """
    folder = Path(folder)
    for path in sorted(folder.glob(f"{PARTIAL_PREFIX}{name}*")) + sorted(folder.glob(f"{_ASIDE_PREFIX}{name}*")):
        # Younger ones may be between being made and being claimed.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _UNCLAIMED_SECONDS:
                continue
            claim = _Claim(os.open(path, os.O_RDONLY))
            with contextlib.closing(claim):
                if not claim.held:
                    continue
                for moved in path.iterdir() if path.name.startswith(_ASIDE_PREFIX) else ():
                    if not (folder / moved.name).exists():
                        os.replace(moved, folder / moved.name)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _umask() -> int:
    # Without setting it, where that can be: another thread may be making a file.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room left to write, also where a library says so in words of its own only."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    text = str(error)
    by_safetensors = re.search(rf"os error ({'|'.join(map(str, _NO_ROOM))})\b", text) is not None
    # torch.save: a short write, of the file's middle, of an entry or of what was left at its close, none of which it explains.
    by_torch = re.search("inline_container.*unexpected pos|PytorchStreamWriter failed writing|iostream error", text, re.DOTALL)
    return by_safetensors or (isinstance(error, RuntimeError) and by_torch is not None)


@contextlib.contextmanager
def new_folder(target: Path | str, replace: bool = False) -> Iterator[Path]:
    """Yield a staging folder that becomes `target` when the block ends without an exception.

    If `target` appeared meanwhile (another process made the same thing), that one stays,
    unless `replace` says that it is to go.

    Raises:
        StorageError: The folder could not be written; nothing is left behind.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{PARTIAL_PREFIX}{target.name}-"))
    except OSError as error:
        raise StorageError(f"Cannot make a folder in {target.parent}: {error.strerror or error}.") from error
    claim = _Claim(os.open(staging, os.O_RDONLY))
    placing = False
    try:
        os.chmod(staging, 0o777 & ~_umask())
        yield staging  # an error of the caller's own reading passes through, unless the disk is full
        placing = True
        sync_tree(staging)
        if replace or not target.exists() or not any(target.iterdir()):
            _put_in_place(staging, target)
    except Exception as error:  # a library's words for a full disk are no OSError
        if not is_disk_full(error) and not (placing and isinstance(error, OSError)):
            raise
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        claim.close()


def _put_in_place(staging: Path, target: Path) -> None:
    # What stood there is moved aside before it is deleted: a kill in between tears nothing.
    trash = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_ASIDE_PREFIX}{target.name}-"))
    old = trash / target.name
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(staging, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    finally:
        sync_folder(target.parent)
        shutil.rmtree(trash, ignore_errors=True)


def cache_root() -> Path:
    """The folder of prepared data: ``$LLMFORGE_CACHE``, by default the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("LLMFORGE_CACHE") or platformdirs.user_cache_dir("llmforge"))
