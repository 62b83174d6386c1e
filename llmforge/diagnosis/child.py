"""python -m llmforge.diagnosis.child '{"parts": ["stack", "numerics"]}'

The parts of the diagnosis that run libraries and kernels, in a process that may crash or hang without taking `llmforge
doctor` along. It tells what it does and finds in lines of JSON on standard output; whatever libraries print there goes
to standard error instead.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmforge.diagnosis.findings import Finding, explained

if TYPE_CHECKING:
    from llmforge.diagnosis.numerics import Comparison

Tell = Callable[[str], None]


def _stack(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding | dict[str, Any]]:
    from llmforge.diagnosis.stack import import_libraries, show_devices, torch_facts

    broken = False
    for finding in import_libraries(tell):
        broken = broken or finding.level == "failure"
        yield finding
    if broken:
        yield {"broken": True}
        return
    tell("devices")
    facts = torch_facts()
    yield {"torch": facts}
    yield from show_devices(facts)


def _numerics(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding]:
    from llmforge.diagnosis.model_step import compare_steps
    from llmforge.diagnosis.numerics import compare_operations, whole_products
    from llmforge.diagnosis.stack import find_devices, place_of
    from llmforge.diagnosis.verdict import told_comparisons
    from llmforge.runtime.precision import choose_precision

    for number, device in enumerate(find_devices()):
        place, precision = place_of(number, device), choose_precision("auto", None, device)
        made: list[Comparison] = []
        with whole_products():
            for kind in dict.fromkeys(("fp32", precision)):
                made += compare_operations(place, kind, tell)
                made += compare_steps(place, kind, tell)
        yield told_comparisons(device.name, device.kind, made)


def _speed(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding]:
    from llmforge.diagnosis.speed import look_at_speed
    from llmforge.diagnosis.stack import find_devices, place_of
    from llmforge.runtime.precision import choose_precision

    for number, device in enumerate(find_devices()):
        yield look_at_speed(device, place_of(number, device), choose_precision("auto", None, device), tell)


def _trackers(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding]:
    from llmforge.diagnosis.tracking import look_at_trackers

    yield from look_at_trackers(tell)


def _training(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding | dict[str, Any]]:
    from llmforge.diagnosis.stack import find_devices
    from llmforge.diagnosis.trial import train_a_little

    if len(find_devices()) > 1:  # one process to several GPUs is refused; a process that sees one of them does it
        yield {"apart": "training"}
    else:
        yield train_a_little(tell)


def _remote(tell: Tell, settings: dict[str, Any]) -> Iterator[Finding]:
    from llmforge.diagnosis.store import look_at_store

    yield look_at_store(settings["remote"], tell)


#: By name, in the order that they are done in.
PARTS: dict[str, Callable[[Tell, dict[str, Any]], Iterator[Finding | dict[str, Any]]]] = {
    "stack": _stack,
    "numerics": _numerics,
    "speed": _speed,
    "trackers": _trackers,
    "training": _training,
    "remote": _remote,
}


def examine(settings: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    """Do the parts of `settings` and write what they are doing and what they find.

    An exception in a part is a finding and the end of that part. After libraries that cannot be imported nothing more is
    tried; after a device that computes wrongly, or fails, only what needs no device.

    Args:
        settings: ``parts``, and for the store ``remote``.
        write: Takes each message: ``begin`` (a part), ``doing``, ``finding``, ``torch`` (facts), ``end`` (a part).
    """
    failed: set[str] = set()
    for part in settings["parts"]:
        if "stack" in failed or ("numerics" in failed and part in ("speed", "training")):
            write({"skipped": part})
            continue
        write({"begin": part})
        try:
            for item in PARTS[part](lambda what: write({"doing": what}), settings):
                if isinstance(item, Finding):
                    write({"finding": vars(item)})
                    if item.level == "failure":
                        failed.add(part)
                else:
                    write(item)
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason was given'}"
            write({"finding": vars(explained(part, said))})
            failed.add(part)
        write({"end": part})


def main() -> None:
    """Read the settings, and speak on what was standard output."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    examine(json.loads(sys.argv[1]), write)


if __name__ == "__main__":
    main()
