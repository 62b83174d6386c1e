"""Sizes and times as people write them."""

from __future__ import annotations

import re

from llmforge.errors import ConfigError

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}


def parse_bytes(text: str, flag: str) -> int:
    """Bytes of ``12GiB``, ``12 GB``, ``800M`` or a plain number of bytes.

    Raises:
        ConfigError: It is none of these, or nothing at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    unit = found[2].lower() if found else "?"
    if found is None or unit not in _UNITS or float(found[1]) * _UNITS[unit] < 1:
        raise ConfigError(f"{flag} {text!r} is no size.", "Write it as 12GiB, 12GB or 800MiB.")
    return int(float(found[1]) * _UNITS[unit])


def parse_seconds(text: str, flag: str) -> float:
    """Seconds of ``48h``, ``1h30m``, ``2d``, ``90s``.

    Raises:
        ConfigError: It is none of these, or nothing at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", text.lower())
    plain = re.sub(r"\s", "", text.lower())
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts or re.sub(r"\s", "", "".join(number + unit for number, unit in parts)) != plain or total <= 0:
        raise ConfigError(f"{flag} {text!r} is no time.", "Write it as 48h, 1h30m, 30m or 90s.")
    return total


def format_seconds(seconds: float) -> str:
    """`seconds` in the two units that say the most, as people read them."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def format_count(number: float) -> str:
    """A number of tokens or parameters, as people say it: 12M, 1.2B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
