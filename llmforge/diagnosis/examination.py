"""The whole of a diagnosis, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from llmforge.configs.doctor import DoctorArguments
from llmforge.diagnosis.asking import ask
from llmforge.diagnosis.cards import Torch, look_at_cards
from llmforge.diagnosis.disk import look_at_disk
from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.heat import look_at_heat, throttle_counts
from llmforge.diagnosis.installed import look_at_packages
from llmforge.diagnosis.machine import Machine
from llmforge.diagnosis.system import look_at_system


def examine(machine: Machine, asked: DoctorArguments, show: Callable[[str], None]) -> Iterator[Finding]:
    """Everything that is found, as it is found.

    Args:
        machine: To look at.
        asked: What to look at.
        show: Is told what is being done.
    """
    before = throttle_counts(machine)
    yield from look_at_system(machine)
    show("installed packages")
    yield from look_at_packages(machine)
    show("the disk")
    yield from look_at_disk(machine, asked.output_dir)
    parts = ["stack", "numerics", "trackers"] if asked.quick else ["stack", "numerics", "speed", "trackers", "training"]
    torch, apart, unseen, trained = Torch(), [], list[Finding](), False
    for item in ask(machine, parts, show):
        if isinstance(item, Finding):
            trained = trained or (item.subject, item.level) == ("training", "ok")
            yield item
        elif "apart" in item:
            apart.append(item["apart"])
        else:
            torch = _torch(item["torch"])
            for finding in look_at_cards(machine, torch):
                if (finding.level, finding.see) == ("failure", "no-gpu"):
                    unseen.append(finding)
                else:
                    yield finding
    # A container without --gpus on a host that has some trains on the CPU: slower than it could, but it does.
    yield from (replace(finding, level="warning") if trained else finding for finding in unseen)
    if apart:
        one = {"HIP_VISIBLE_DEVICES" if torch.hip else "CUDA_VISIBLE_DEVICES": "0"}
        yield from _findings(ask(machine, apart, show, environment=one))
    if asked.remote is not None:
        yield from _findings(ask(machine, ["remote"], show, remote=asked.remote))
    if not asked.quick:
        yield from look_at_heat(machine, before)


def _findings(items: Iterator[Finding | dict[str, Any]]) -> Iterator[Finding]:
    return (item for item in items if isinstance(item, Finding))


def _torch(facts: dict[str, Any]) -> Torch:
    lists = {name: tuple(facts[name]) for name in ("devices", "architectures")}
    return Torch(**facts | lists)
