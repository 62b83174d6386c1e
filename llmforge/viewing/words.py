"""Figures and times as people read them."""

from __future__ import annotations

import math
import time


def number(value: float | None, digits: int = 4) -> str:
    """A measured figure: ``3.188``, ``1,029``, ``1.2e-05``; a dash where there is none."""
    if value is None:
        return "—"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        text = f"{value:,.0f}" if size < 1e15 else f"{value:.3g}"
    elif size < 1e-3:
        text = f"{value:.{digits - 2}e}".replace("e-0", "e-")
    else:
        text = f"{value:.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"
    return text.replace("-", "−") if value < 0 else text


def count(value: float | None) -> str:
    """A whole number with its thousands set off; a dash where there is none."""
    return "—" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def short(value: float | None) -> str:
    """A large whole number in three figures: ``51.9 k``, ``3.28 G``."""
    if value is None or not math.isfinite(value):
        return "—"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``; a dash where it is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    whole = round(max(seconds, 0))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(whole / 3600)
    return f"{hours // 24} d {hours % 24} h"


def moment(seconds: float | None) -> str:
    """A time in seconds since the epoch as ``2026-01-31 12:00 UTC``; a dash where it is unknown."""
    try:
        return "—" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "—"


def size(value: float | None) -> str:
    """Bytes as ``2.4 MB``, ``8.1 GB``, in powers of ten as disks are sold; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return "—"
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} bytes"
