"""The machine itself: cores, memory, and what the system lets one process have."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine
from llmforge.runtime.devices import available_cores, format_bytes

#: What Linux gives a process that asks for nothing.
_FEW_FILES = 1024
#: Docker gives 64 MiB, in which a batch or two of a data loader's workers fit.
_LITTLE_SHARED = 256 << 20
#: A training of the smallest preset takes about this, most of it for the libraries.
_LITTLE_MEMORY = 2 << 30


def look_at_system(machine: Machine) -> Iterator[Finding]:
    """Cores and memory, open files, shared memory."""
    yield from _memory(machine)
    files = machine.open_files()
    if files is not None and files < _FEW_FILES:
        yield Finding(
            "limits",
            "warning",
            f"A process may have {files} open files, fewer than the usual {_FEW_FILES}.",
            "Raise it in the shell that trains: ulimit -n 4096.",
            "system-limits",
        )
    if machine.has("dev/shm"):
        total, free = machine.room(machine.root / "dev/shm")
        if min(total, free) < _LITTLE_SHARED:
            yield Finding(
                "limits",
                "warning",
                f"/dev/shm has {format_bytes(free)} free of {format_bytes(total)}; workers of the data loader die of that.",
                "Give a container more, docker run --shm-size=1g, or keep --dataloader_num_workers 0.",
                "system-limits",
            )
    threads = machine.environment.get("OMP_NUM_THREADS")
    if threads == "1" and available_cores() > 1:
        yield Finding(
            "limits",
            "note",
            f"OMP_NUM_THREADS=1 is set: a training on the CPU uses one of {available_cores()} cores.",
            "Unset it, if that was not meant.",
            "slow-or-throttled",
        )


def _memory(machine: Machine) -> Iterator[Finding]:
    values = dict(line.split(":", 1) for line in machine.read("proc/meminfo").splitlines() if ":" in line)

    def size(name: str) -> int | None:
        words = values.get(name, "").split()
        return int(words[0]) * 1024 if words and words[0].isdigit() else None

    total, free = size("MemTotal"), size("MemAvailable")
    limit = machine.read("sys/fs/cgroup/memory.max") or machine.read("sys/fs/cgroup/memory/memory.limit_in_bytes")
    used = machine.read("sys/fs/cgroup/memory.current") or machine.read("sys/fs/cgroup/memory/memory.usage_in_bytes")
    if total is not None and free is not None and limit.isdigit() and used.isdigit() and int(limit) < total:
        total, free = int(limit), min(free, max(int(limit) - int(used), 0))
    name = f"{platform.system()} {platform.release()}, {os.uname().machine if hasattr(os, 'uname') else platform.machine()}"
    cores = f"{available_cores()} core{'s' * (available_cores() > 1)}"
    if total is None or free is None:
        yield Finding("system", "ok", f"{name}, {cores}")
        return
    text = f"{name}, {cores}, {format_bytes(total)} of memory, {format_bytes(free)} free"
    if free < _LITTLE_MEMORY:
        yield Finding("system", "warning", text, "Free some: the smallest training takes about 2 GiB.", "out-of-memory")
    else:
        yield Finding("system", "ok", text)
