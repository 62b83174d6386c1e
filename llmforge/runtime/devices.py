"""What this machine computes on, and which half precision it has natively.

Everything that imports torch does so inside a function: this module is read by
commands that must answer at once.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

#: RDNA2 and older AMD architectures compute bfloat16 in software; fp16 is native there.
#: Source: AMD's instruction set documents; not tried on hardware.
_ROCM_WITHOUT_BF16 = ("gfx803", "gfx900", "gfx906", "gfx1010", "gfx1011", "gfx1012", "gfx103")
#: x86 instructions that multiply bfloat16; without them a CPU emulates it some 150 times slower.
_CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Device:
    """One device to train on.

    Attributes:
        kind: ``cpu``, ``cuda`` (NVIDIA), ``rocm`` (AMD) or another torch device type.
        name: The manufacturer's name of it.
        memory: Its memory in bytes; for a CPU, that of the machine or of its control group.
        half: The half precision it has natively, ``bf16``, ``fp16`` or None.
    """

    kind: str
    name: str
    memory: int
    half: str | None

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {format_bytes(self.memory)})"


def format_bytes(size: float) -> str:
    """`size` in GiB or MiB, as people read it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def probe_device() -> Device:
    """The device that this process will train on."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return Device("cpu", _cpu_name(), _machine_memory(), "bf16" if _cpu_has_bf16() else None)
    if accelerator.type != "cuda":
        return Device(accelerator.type, platform.processor() or accelerator.type, _machine_memory(), "fp16")
    properties = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if torch.version.hip:
        architecture = properties.gcnArchName.split(":")[0]
        half = "fp16" if architecture.startswith(_ROCM_WITHOUT_BF16) else "bf16"
        return Device("rocm", f"{properties.name} {architecture}", properties.total_memory, half)
    # Ampere (compute capability 8.0) was the first with native bfloat16; Volta and Turing have fp16.
    native = "bf16" if properties.major >= 8 else "fp16" if properties.major >= 7 else None
    return Device("cuda", properties.name, properties.total_memory, native)


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes: on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_name() -> str:
    for line in _cpu_info().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {available_cores()} cores"
    return f"{platform.processor() or platform.machine()}, {available_cores()} cores"


def _cpu_has_bf16() -> bool:
    flags = next((line for line in _cpu_info().splitlines() if line.startswith("flags")), "").split()
    return any(flag in flags for flag in _CPU_BF16_FLAGS)


def _machine_memory() -> int:
    import psutil

    total = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total
