"""The configuration of a run, and where it differs: from the defaults, or from other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Settings that differ from run to run and say nothing about the training.
_PLACES = {"training.output_dir", "training.run_name", "training.logging_dir", "run.resume"}
#: Stands for a setting that a run does not have.
ABSENT = "—"


@dataclass(frozen=True)
class Change:
    """A setting that is not at its default: ``training.max_steps``, its value and the default."""

    name: str
    value: Any
    default: Any


def changes(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Change]:
    """The settings that differ from their defaults, in the order of the configuration.

    Args:
        config: Of ``run.json``, by part.
        defaults: The same record's ``defaults``: by part, of each setting that differs.
    """
    found = []
    for part, settings in config.items():
        told = defaults.get(part)
        if isinstance(settings, dict) and isinstance(told, dict):
            names = [name for name in settings if name in told and f"{part}.{name}" not in _PLACES]
            found += [Change(f"{part}.{name}", settings[name], told[name]) for name in names]
    return found


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings in which runs differ from one another: by name (``training.seed``), the value of each run."""
    flat = [_flat(config) for config in configs]
    names = dict.fromkeys(name for settings in flat for name in settings if name not in _PLACES)
    rows = {name: [settings.get(name, ABSENT) for settings in flat] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    parts = ((part, settings) for part, settings in config.items() if isinstance(settings, dict))
    return {f"{part}.{name}": value for part, settings in parts for name, value in settings.items()}
