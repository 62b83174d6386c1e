"""What a run's settings would be if nobody had set them: recorded with it, for a later version may have other defaults."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmforge.configs.deadline import UNBOUNDED

if TYPE_CHECKING:
    from llmforge.configs.run import RunConfig

#: The parts of a run's configuration besides ``training``, in the order of the records; a run has some of them.
PARTS = ("model", "finetune", "lora", "tokenizer", "data", "generation", "run", "checkpoint", "remote", "deadline")
#: Of `accelerator_config`.
_LOST = "use_configured_state"


def settings_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    """All settings of a run as plain values, by part."""
    parts = {name: asdict(getattr(config, name)) for name in PARTS if hasattr(config, name)}
    return {**parts, "training": config.training.to_dict()}


def defaults_of_changed(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The defaults of the settings that have another value, by part.

    A value that follows from others, as the learning rate from the model's width or no number of steps from a deadline, is
    no change.
    """
    from llmforge.configs.training import deferred_process_group  # loaded by whoever has such a config

    settings = settings_of(config)
    with deferred_process_group():
        fresh = {name: asdict(type(getattr(config, name))()) for name in settings if name != "training"}
        fresh["training"] = type(config.training)().to_dict()
    if config.training.learning_rate_follows:
        fresh["training"]["learning_rate"] = config.training.learning_rate
    return {
        part: {
            name: fresh[part][name]
            for name, value in values.items()
            if name in fresh[part] and not _same(value, fresh[part][name]) and name != "chosen" and value != UNBOUNDED
        }
        for part, values in settings.items()
    }


def _same(value: Any, default: Any) -> bool:
    """Whether they are equal, but for the name that accelerate's settings lose when the device is first looked at."""
    if isinstance(value, dict) and isinstance(default, dict):
        value, default = ({name: item for name, item in part.items() if name != _LOST} for part in (value, default))
    return bool(value == default)
