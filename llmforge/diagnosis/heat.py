"""Whether the machine slows itself down because it is hot; looked at before and after it was made to work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine

_FIELDS = ("index", "temperature.gpu", "clocks.sm", "clocks.max.sm")
#: Newer and older drivers' word for the same.
_REASONS = ("clocks_event_reasons", "clocks_throttle_reasons")
#: Degrees below its critical temperature at which an AMD card counts as hot.
_MARGIN = 5
_REMEDY = "Clean its fans, give it air, or lower its power limit; until then training is slower than it could be."


def throttle_counts(machine: Machine) -> dict[str, int]:
    """How often each core, or its package, slowed down since the start, where the processor counts that."""
    counts = {}
    for path in machine.find("sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"):
        name = str(path.relative_to(machine.root))
        text = machine.read(name)
        if text.isdigit():
            counts[name] = int(text)
    return counts


def look_at_heat(machine: Machine, before: Mapping[str, int]) -> Iterator[Finding]:
    """GPUs that are hot or throttled now, and a CPU that was since `before`."""
    more = sum(max(count - before.get(name, count), 0) for name, count in throttle_counts(machine).items())
    if more:
        yield _hot(f"The CPU slowed down {more} time{'s' * (more > 1)} for its temperature while it was tried.")
    yield from _nvidia(machine)
    yield from _amd(machine)


def _hot(text: str) -> Finding:
    return Finding("heat", "warning", text, _REMEDY, "slow-or-throttled", simulated=True)


def _nvidia(machine: Machine) -> Iterator[Finding]:
    if not machine.has("proc/driver/nvidia/version"):
        return
    for word in _REASONS:
        asked = ",".join((*_FIELDS, f"{word}.hw_thermal_slowdown", f"{word}.sw_thermal_slowdown"))
        told = machine.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"])
        if told is None:
            continue
        for line in told.splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) == 6 and "Active" in cells[4:]:
                yield _hot(f"GPU {cells[0]} is throttled at {cells[1]} °C: {cells[2]} of {cells[3]} MHz.")
        return


def _amd(machine: Machine) -> Iterator[Finding]:
    for path in machine.find("sys/class/drm/card*/device/hwmon/hwmon*/temp*_input"):
        place = str(path.relative_to(machine.root))
        now, most = machine.read(place), machine.read(place.replace("_input", "_crit"))
        card = re.search(r"card\d+", place)
        if now.isdigit() and most.isdigit() and int(now) >= int(most) - _MARGIN * 1000 > 0:
            yield _hot(f"{card[0] if card else 'A card'} is at {int(now) // 1000} °C, critical is {int(most) // 1000} °C.")
