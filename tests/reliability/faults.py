"""Faults to inject: kills at a call, a disk that is full, damaged files, and what a power cut would leave."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability.harness import child, ended, forked

#: The calls that change what a folder shows, or make it last.
CALLS = ("rename", "replace", "unlink", "remove", "rmdir", "fsync")
SYSCALLS = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync")
_NEWNS, _NEWUSER = 0x20000, 0x10000000


def killed_at_call(number: int, work: Callable[[], object]) -> int:
    """Do `work` in a child that is killed before the n-th of `CALLS` in Python; its exit code, 0 if there are fewer."""

    def counting() -> None:
        left = number

        def counted(call: Callable) -> Callable:
            def before(*arguments, **named):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)

            return before

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        work()

    return forked(counting, quiet=True)


def has_strace() -> bool:
    """Whether system calls can be watched here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def straced(work: Callable[[], object], *options: str) -> int:
    """Do `work` in a child with strace at it, threads included; its exit code."""
    reading, writing = os.pipe()

    def attached() -> None:
        faulthandler.cancel_dump_traceback_later()  # a thread of its own
        os.close(writing)
        os.read(reading, 1)
        work()

    pid = child(attached, quiet=True)
    os.close(reading)
    with tempfile.NamedTemporaryFile("w") as told:
        tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *options], stdout=told, stderr=told)
        limit = time.monotonic() + 30
        while "attached" not in Path(told.name).read_text():
            assert tracer.poll() is None, Path(told.name).read_text()
            assert time.monotonic() < limit
            time.sleep(0.005)
        os.write(writing, b"x")
        os.close(writing)
        code = ended(pid)
        tracer.wait(30)
    return code


def killed_at_syscall(name: str, number: int, work: Callable[[], object]) -> int:
    """Do `work` in a child that is killed at the n-th such system call of a thread; its exit code, 0 if there are fewer."""
    return straced(work, "-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")


# --- order ---------------------------------------------------------------------------------------


def recorded(work: Callable[[], object], log: Path) -> int:
    """Do `work` in a child, and write down what it does to files; its exit code."""
    calls = f"trace=openat,write,pwrite64,writev,ftruncate,mkdir,{','.join(SYSCALLS)}"
    return straced(work, "-y", "-s", "0", "-o", str(log), "-e", calls)


def _whole(log: Path) -> Iterator[tuple[str, str]]:
    """Calls that went well, in order: name, and arguments; those that another thread's came between are put together."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", text)
        if resumed:
            text = begun.pop(pid, "") + resumed[1]
        call = re.match(r"(\w+)\((.*)\)\s+= (\S+)", text)
        if call and not call[3].startswith("-"):
            yield call[1], call[2]


def _hidden(path: str) -> bool:
    return re.search(r"/\.(staging|partial|aside|llmforge-trash)", path) is not None


def disorder(log: Path, root: Path) -> tuple[int, list[str]]:
    """How many renames there were under `root`, and what a power cut could have torn.

    - a file or folder that is renamed was synced after its last change
    - the folder it comes to is synced before anything else is renamed into sight
    - nothing is written into a checkpoint's staging folder once its manifest is there
    """
    unsynced: dict[str, str] = {}  # path → what was done to it
    waiting: set[str] = set()
    listed: set[str] = set()
    renames, faults = 0, []
    for name, text in _whole(log):
        place = re.match(r"\w+<([^>]+)>", text)
        if name in ("write", "pwrite64", "writev", "ftruncate") and place and place[1].startswith(str(root)):
            unsynced[place[1]] = "written"
            faults += [f"{place[1]} was written after the manifest" for folder in listed if place[1].startswith(folder + "/")]
        elif name == "openat" and "O_CREAT" in text:
            path = re.search(r'"([^"]+)"', text)
            if path and path[1].startswith(str(root)):
                unsynced[os.path.dirname(path[1])] = "given a file"
        elif name == "mkdir":
            path = re.search(r'"([^"]+)"', text)
            if path and path[1].startswith(str(root)):
                unsynced[os.path.dirname(path[1])] = "given a folder"
        elif name in ("fsync", "fdatasync") and place:
            unsynced.pop(place[1], None)
            waiting.discard(place[1])
        elif name.startswith("rename"):
            old, new = re.findall(r'"([^"]+)"', text)[:2]
            if not new.startswith(str(root)):
                continue
            if "/.llmforge-trash" in new or "/.aside" in new:
                continue
            renames += 1
            torn = [path for path in unsynced if path == old or path.startswith(old + "/")]
            if _hidden(new):
                unsynced |= {new + path.removeprefix(old): unsynced.pop(path) for path in torn}
            else:
                faults += [f"{path} was {unsynced[path]} and not synced when {old} became {new}" for path in torn]
                faults += [f"{new} came before {folder} was synced" for folder in waiting]
                waiting.add(os.path.dirname(new))
            if os.path.basename(new) == "manifest.json":
                listed.add(os.path.dirname(new))
                unsynced[os.path.dirname(new)] = "given its manifest"
            listed.discard(old)
    faults += [f"{folder} was not synced after a rename into it" for folder in waiting]
    return renames, faults


# --- disks and files ------------------------------------------------------------------------------


def on_a_disk_of(size: int, work: Callable[[Path], object]) -> int:
    """Do `work` in a child with the path of an empty disk of so many bytes, which only it sees; its exit code."""
    place = Path(tempfile.mkdtemp())

    def mounted() -> None:
        faulthandler.cancel_dump_traceback_later()  # a process with threads has no user namespace of its own
        libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()

        def check(result: int) -> None:
            if result:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        limit = time.monotonic() + 5
        while libc.unshare(_NEWUSER | _NEWNS):  # the thread may not be gone yet
            if ctypes.get_errno() != errno.EINVAL or time.monotonic() > limit:
                check(-1)
            time.sleep(0.01)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
        check(libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={size}".encode()))
        work(place)

    try:
        return forked(mounted)
    finally:
        place.rmdir()


def can_mount() -> bool:
    """Whether a disk of one's own can be had here."""
    return on_a_disk_of(1 << 16, lambda place: None) == 0


def fill(folder: Path, left: int) -> Path:
    """Take all of the disk of `folder` but so many bytes, and return the file that does."""
    path = folder / "filler"
    with open(path, "wb") as file:
        try:
            while True:
                file.write(bytes(1 << 14))
                file.flush()
        except OSError:
            pass
    size = path.stat().st_size
    os.truncate(path, max(size - left, 0))
    return path


def damages(path: Path, source: random.Random, flips: int) -> dict[str, bytes | None]:
    """What can happen to a file: a name, and what is in it then; None where it is gone."""
    content = path.read_bytes()
    size = len(content)
    made: dict[str, bytes | None] = {"missing": None}
    made |= {f"cut to {left}": content[:left] for left in sorted({0, 1, size // 2, size - 1}) if left < size}
    for _ in range(flips if size else 0):
        place, bit = source.randrange(size), source.randrange(8)
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << bit
        made[f"bit {bit} of byte {place} flipped"] = bytes(spoilt)
    return made
