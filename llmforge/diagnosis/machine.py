"""Everything that the diagnosis reads of a machine goes through here, so that a test can put another machine in its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from llmforge.storage.files import PARTIAL_PREFIX


def _run(command: Sequence[str], seconds: float = 10.0) -> str | None:
    """What a command prints; None where it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _room(path: Path) -> tuple[int, int]:
    """Total and free bytes of the file system that `path` lies on."""
    usage = shutil.disk_usage(path)
    return usage.total, usage.free


def _open_files() -> int | None:
    """How many files a process may have open; None where that is unlimited or not known."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def _groups() -> frozenset[str]:
    """Names of the groups that this process is in."""
    try:
        import grp
    except ImportError:
        return frozenset()
    names = set()
    for number in {*os.getgroups(), os.getgid()}:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)


def _write(folder: Path, block: bytes, blocks: int) -> float:
    """Write a file of `blocks` blocks into `folder`, sync it, delete it, and return the seconds that took.

    Raises:
        OSError: It cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=PARTIAL_PREFIX)
    try:
        start = time.perf_counter()
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for _ in range(blocks):
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
        return time.perf_counter() - start
    finally:
        os.unlink(name)


@dataclass(frozen=True)
class Machine:
    """The machine that is looked at.

    Attributes:
        root: Where ``proc``, ``sys``, ``dev`` and ``opt`` are.
        environment: Variables.
        user: Number of the user, 0 for the administrator.
        groups: That the user is in, by name.
        packages: Folders in which installed packages are looked for; None for those of this Python.
        child: Command that starts the process in which torch is tried; its one argument is JSON.
        run: Runs a command and returns what it prints, or None.
        room: Total and free bytes where a path lies.
        write: Writes, syncs and deletes a file; returns seconds.
        open_files: Limit of open files.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    user: int = field(default_factory=lambda: os.geteuid() if hasattr(os, "geteuid") else 0)
    groups: frozenset[str] = field(default_factory=_groups)
    packages: Sequence[str] | None = None
    child: Sequence[str] = (sys.executable, "-m", "llmforge.diagnosis.child")
    run: Callable[[Sequence[str]], str | None] = _run
    room: Callable[[Path], tuple[int, int]] = _room
    write: Callable[[Path, bytes, int], float] = _write
    open_files: Callable[[], int | None] = _open_files

    def read(self, path: str) -> str:
        """The text of ``/path``; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def find(self, pattern: str) -> list[Path]:
        """Paths below the root that match, in order."""
        with contextlib.suppress(OSError):
            return sorted(self.root.glob(pattern))
        return []

    def has(self, path: str) -> bool:
        """Whether there is ``/path``."""
        with contextlib.suppress(OSError):
            return (self.root / path).exists()
        return False

    def distributions(self) -> dict[str, metadata.Distribution]:
        """Installed packages, by their name in lower case with hyphens; the first of several counts, as in imports."""
        found: dict[str, metadata.Distribution] = {}
        every = metadata.distributions() if self.packages is None else metadata.distributions(path=list(self.packages))
        for item in every:
            name = (item.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")
            if name:
                found.setdefault(name, item)
        return found
