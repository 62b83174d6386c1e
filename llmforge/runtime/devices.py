"""What this machine computes on, and which half precision it has natively.

Everything that imports torch does so inside a function: this module is read by
commands that must answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.errors import ConfigError

if TYPE_CHECKING:
    import psutil

#: RDNA2 and older AMD architectures compute bfloat16 in software; fp16 is native there.
#: Source: AMD's instruction set documents; not tried on hardware.
_ROCM_WITHOUT_BF16 = ("gfx803", "gfx900", "gfx906", "gfx1010", "gfx1011", "gfx1012", "gfx103")
#: x86 instructions that multiply bfloat16; without them a CPU emulates it some 150 times slower.
_CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16")

#: Dense peaks of matrix multiplication in 1e12 operations a second, by a part of the device's
#: name: half precision with fp32 sums, and fp32 without tensor cores. Longer names first.
#: Source: the makers' data sheets and architecture papers (NVIDIA's GeForce papers give the
#: half rate for fp32 sums, which training uses; AMD's RDNA2 has no matrix cores). Others,
#: and parts of a card (MIG), are left out rather than guessed.
_PEAKS = (
    ("H200", 989.0, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("RTX A6000", 154.8, 38.7),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 4080", 97.5, 48.7),
    ("RTX 3090", 71.0, 35.6),
    ("RTX 3080", 59.5, 29.8),
    ("RTX 2080 Ti", 53.8, 13.4),
    ("V100-SXM2", 125.0, 15.7),
    ("T4", 65.0, 8.1),
    ("MI300X", 1307.4, 163.4),
    ("RX 7900 XTX", 122.8, 61.4),
    ("RX 6800 XT", 41.5, 20.7),
    ("RX 6700 XT", 26.4, 13.2),
)

#: Memory of those in GiB, where all cards of the name have the same; `--device_memory` says it for the others.
_MEMORY = {
    "H200": 141,
    "H100": 80,
    "H100 PCIe": 80,
    "A40": 48,
    "L40S": 48,
    "L4": 24,
    "RTX A6000": 48,
    "RTX 4090": 24,
    "RTX 4080": 16,
    "RTX 3090": 24,
    "RTX 2080 Ti": 11,
    "T4": 16,
    "MI300X": 192,
    "RX 7900 XTX": 24,
    "RX 6800 XT": 16,
    "RX 6700 XT": 12,
}
#: Those whose half precision is fp16.
_FP16_CARDS = ("RTX 2080 Ti", "V100-SXM2", "T4", "RX 6800 XT", "RX 6700 XT")
#: Rows of the matrices whose product says how fast a CPU is.
_TRIAL = 1024


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


def probe_device(use_cpu: bool = False, number: int | None = None) -> Device:
    """The device that this process will train on, or the GPU `number`; with `use_cpu` the CPU, whatever else there is."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not use_cpu else None
    if accelerator is None:
        return Device("cpu", _cpu_name(), _machine_memory(), "bf16" if _cpu_has_bf16() else None)
    if accelerator.type != "cuda":
        return Device(accelerator.type, platform.processor() or accelerator.type, _machine_memory(), "fp16")
    number = int(os.environ.get("LOCAL_RANK", 0)) if number is None else number
    properties = torch.cuda.get_device_properties(number % torch.cuda.device_count())
    if torch.version.hip:
        architecture = properties.gcnArchName.split(":")[0]
        half = "fp16" if architecture.startswith(_ROCM_WITHOUT_BF16) else "bf16"
        return Device("rocm", f"{properties.name} {architecture}", properties.total_memory, half)
    # Ampere (compute capability 8.0) was the first with native bfloat16; Volta and Turing have fp16.
    native = "bf16" if properties.major >= 8 else "fp16" if properties.major >= 7 else None
    return Device("cuda", properties.name, properties.total_memory, native)


def peak_memory(use_cpu: bool = False) -> int:
    """The most memory this process has held so far, in bytes: on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_load(use_cpu: bool = False) -> dict[str, float]:
    """What this process's device is holding and how busy it is; figures that cannot be had are left out.

    Returns:
        ``device_memory`` and ``device_memory_peak`` in bytes (on a GPU what torch has allocated,
        else what the process has resident), ``device_utilization`` in percent (of the GPU as
        its driver says; of the cores this process may use, since the last call) and, of a GPU,
        ``device_temperature`` in degrees Celsius.
    """
    import torch

    if use_cpu or not torch.cuda.is_available():
        import psutil

        process = _this_process()
        used = process.cpu_percent() / available_cores()
        with contextlib.suppress(psutil.Error):
            resident = process.memory_info().rss
            return {
                "device_memory": resident,
                "device_memory_peak": max(resident, peak_memory(use_cpu=True)),  # the kernel notes the peak a little later
                "device_utilization": round(used, 1),
            }
        return {}
    load: dict[str, float] = {"device_memory": torch.cuda.memory_allocated(), "device_memory_peak": peak_memory()}
    # Needs the maker's library (nvidia-ml-py, amdsmi), which not every installation has; a part of a card knows only some.
    for name, ask in (("device_utilization", torch.cuda.utilization), ("device_temperature", torch.cuda.temperature)):
        with contextlib.suppress(Exception):
            load[name] = float(ask())
    return load


@functools.cache
def _this_process() -> psutil.Process:
    """One object for all calls: the processor time is counted from one call to the next."""
    import psutil

    return psutil.Process()


def peak_flops(precision: str, name: str | None = None, use_cpu: bool = False) -> float | None:
    """Operations a second that a device can do at most in `precision` (``bf16``, ``fp16``, ``fp32``), if known.

    Args:
        precision: What matrices are multiplied in.
        name: The device's name, by default that of this process's; a CPU has no known peak.
        use_cpu: As in `probe_device`.
    """
    if name is None:
        device = probe_device(use_cpu)
        if device.kind not in ("cuda", "rocm") or (precision == "bf16" and device.half != "bf16"):
            return None
        name = device.name
    peaks = {part: (half, full) for part, half, full in _PEAKS}.get(table_name(name) or "")
    return peaks[precision == "fp32"] * 1e12 if peaks else None


def table_name(name: str) -> str | None:
    """What the device called `name` is called in the device table; None where it is not in it, or is a part of a card."""
    parts = (part for part, _, _ in _PEAKS if re.search(rf"\b{re.escape(part)}\b(?! (Ti|SUPER|Laptop|D|NVL)\b)", name))
    return None if "MIG" in name else next(parts, None)


def known_device(name: str, memory: int | None = None) -> Device:
    """The card called `name` in the device table.

    Args:
        name: As in the table, ``RTX 3090`` say.
        memory: Its bytes, where they are not to be the table's.

    Raises:
        ConfigError: There is none, or cards of that name have several sizes of memory and none is given.
    """
    known = {part.lower(): part for part, _, _ in _PEAKS}
    wanted = re.sub(r"^(nvidia|amd|geforce|radeon)\s+", "", name.strip().lower())
    part = known.get(wanted)
    if part is None:
        close = difflib.get_close_matches(wanted, known, n=1)
        hint = f"Did you mean {known[close[0]]!r}?" if close else f"Known: {', '.join(known.values())}."
        raise ConfigError(f"--device {name!r} is not in the device table.", hint)
    if memory is None and part not in _MEMORY:
        raise ConfigError(f"--device {name!r}: there are several sizes of it.", "Give --device_memory too.")
    kind = "rocm" if part.startswith(("MI", "RX")) else "cuda"
    return Device(kind, part, memory or _MEMORY[part] * 2**30, "fp16" if part in _FP16_CARDS else "bf16")


@functools.cache
def matrix_flops(precision: str) -> float:
    """Operations a second of one large matrix product on this CPU, the best of a few; some tenths of a second."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.ones(_TRIAL, _TRIAL, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - start)
    return 2 * _TRIAL**3 / best


def available_memory(use_cpu: bool = False) -> int:
    """Bytes that this process may still take: of the GPU if there is one, else of the machine or its control group."""
    import torch

    if torch.cuda.is_available() and not use_cpu:
        return int(torch.cuda.mem_get_info()[0])
    return free_memory()


def free_memory() -> int:
    """Bytes of memory that can still be had: of the machine, or of the control group where that has less."""
    import psutil

    left = int(psutil.virtual_memory().available)
    limits = (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    for limit, used in limits:
        try:
            left = min(left, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(left, 0)


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
    names = (line.split(":", 1)[1].strip() for line in _cpu_info().splitlines() if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {available_cores()} core{'s' * (available_cores() > 1)}"


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
