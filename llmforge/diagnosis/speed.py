"""How fast a device moves memory and multiplies matrices, beside what its maker says."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from llmforge.diagnosis.findings import Finding
from llmforge.runtime.devices import Device, peak_flops, table_name

#: Peaks of memory bandwidth in 1e9 bytes a second, by the names of the device table, where all cards of a name have the
#: same. Source: the makers' data sheets.
_BANDWIDTH = {
    "H200": 4800,
    "H100 PCIe": 2000,
    "H100": 3350,
    "A40": 696,
    "L40S": 864,
    "L4": 300,
    "RTX A6000": 768,
    "RTX 4090": 1008,
    "RTX 4080": 717,
    "RTX 3090": 936,
    "RTX 2080 Ti": 616,
    "V100-SXM2": 900,
    "T4": 320,
    "MI300X": 5300,
    "RX 7900 XTX": 960,
    "RX 6800 XT": 512,
    "RX 6700 XT": 384,
}
#: Below these shares of the peak a device is slow or throttled. Good kernels reach 60 to 90 %.
_SLOW_MATMUL, _SLOW_MEMORY = 0.3, 0.5
#: Seconds for each of the two.
_SECONDS = 0.4
#: Bytes that are copied, far more than a cache holds, and rows of the matrices; on a CPU, and on a GPU.
_COPIED = (128 << 20, 1 << 30)
_SIZE = (1024, 4096)


def look_at_speed(device: Device, place: Any, precision: str, tell: Callable[[str], None]) -> Finding:
    """Both rates, and a warning where they are far from the peak.

    Args:
        device: To measure.
        place: It, as torch calls it.
        precision: That it trains in.
        tell: Is told what comes next.
    """
    import torch

    gpu = device.kind != "cpu"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    tell("memory bandwidth")
    length = min(_COPIED[gpu], device.memory // 16) // 4
    source, target = torch.ones(length, device=place), torch.empty(length, device=place)
    moved = 8 * length / _best(functools.partial(target.copy_, source), place)
    del source, target  # a gigabyte each
    tell(f"matrix products in {precision}")
    one, other = (torch.randn(_SIZE[gpu], _SIZE[gpu], device=place).to(dtype) for _ in range(2))
    done = 2 * _SIZE[gpu] ** 3 / _best(functools.partial(torch.mm, one, other), place)
    return told_speed(device.name, device.kind, precision, moved, done)


def _best(work: Callable[[], Any], place: Any) -> float:
    """Seconds of the fastest of several goes; on a GPU of a queue of four, so that the launch does not count."""
    import torch

    goes = 1 if place.type == "cpu" else 4
    best, end = float("inf"), time.perf_counter() + _SECONDS
    work()
    while time.perf_counter() < end or best == float("inf"):
        if place.type != "cpu":
            torch.accelerator.synchronize(place)
        start = time.perf_counter()
        for _ in range(goes):
            work()
        if place.type != "cpu":
            torch.accelerator.synchronize(place)
        best = min(best, (time.perf_counter() - start) / goes)
    return best


def told_speed(name: str, kind: str, precision: str, moved: float, done: float) -> Finding:
    """The line about a device of this name.

    Args:
        name: The maker's.
        kind: As `Device.kind`.
        precision: Of the matrices.
        moved: Bytes a second, read and written.
        done: Operations a second.
    """
    entry = table_name(name) if kind != "cpu" else None
    peaks = (_BANDWIDTH.get(entry, 0) * 1e9, (peak_flops(precision, name) or 0.0)) if entry else (0.0, 0.0)
    shares = [rate / peak if peak else None for rate, peak in zip((moved, done), peaks, strict=True)]
    of_peak = [f" ({share:.0%} of the peak)" if share is not None else "" for share in shares]
    rate = f"{done / 1e12:,.1f} TFLOP/s" if done >= 1e12 else f"{done / 1e9:,.0f} GFLOP/s"
    text = f"memory {moved / 1e9:,.1f} GB/s{of_peak[0]}, matrix products {rate} in {precision}{of_peak[1]}"
    text += "" if any(peaks) else "; no peak is known for it"
    slow = (shares[0] is not None and shares[0] < _SLOW_MEMORY) or (shares[1] is not None and shares[1] < _SLOW_MATMUL)
    if slow:
        remedy = "See what else runs on it, its temperature and its power limit (nvidia-smi, rocm-smi)."
        return Finding("speed", "warning", f"{text}: slow.", remedy, "slow-or-throttled", simulated=True)
    return Finding("speed", "ok", text, simulated=kind != "cpu")
