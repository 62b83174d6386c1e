"""What a plan is made for, where that is not the machine it is made on."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmforge.configs.units import parse_bytes
from llmforge.errors import ConfigError


@dataclass
class PlanArguments:
    """The device and the processes to plan for.

    Raises:
        ConfigError: A size or a number that cannot be.
    """

    _argument_group_name = "plan"

    list_presets: bool = field(default=False, metadata={"help": "List the presets with their exact parameter counts."})
    device: str | None = field(
        default=None, metadata={"help": "Plan for a card of the device table, 'RTX 3090' say; by default for the device here."}
    )
    device_memory: str | None = field(default=None, metadata={"help": "Memory of the device, 12GiB say; by default what it has."})
    num_processes: int = field(default=1, metadata={"help": "Processes that train together, one a device."})
    effective_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of an optimizer step over all processes, shared out among them; by default "
            "--per_device_train_batch_size times --gradient_accumulation_steps times --num_processes, as in training."
        },
    )
    probe: bool = field(default=False, metadata={"help": "Measure the speed: 20 steps on the device here."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object and nothing else."})

    def __post_init__(self) -> None:
        for name in ("num_processes", "effective_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} is too small.", "Give a whole number of at least 1.")
        self.memory_bytes()
        if self.probe and (self.device is not None or self.num_processes > 1):
            flag = f"--device {self.device}" if self.device is not None else f"--num_processes {self.num_processes}"
            raise ConfigError(f"--probe measures the device here, not {flag}.", "Leave one of them out.")

    def memory_bytes(self) -> int | None:
        """``--device_memory`` in bytes."""
        return None if self.device_memory is None else parse_bytes(self.device_memory, "--device_memory")
