"""How checkpoints are written, and what a resumed run may take for granted."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CheckpointArguments:
    """Settings of checkpoints; how often and how many are Trainer's own ``--save_steps`` and ``--save_total_limit``."""

    _argument_group_name = "checkpoints"

    async_save: bool = field(
        default=True,
        metadata={
            "help": "Write checkpoints while training goes on; takes CPU memory for one, and falls back where it is short."
        },
    )
    allow_fresh_optimizer: bool = field(
        default=False,
        metadata={"help": "Resume also from a checkpoint without the state of optimizer, schedule or random numbers."},
    )
    accept_changes: list[str] = field(
        default_factory=list,
        metadata={"help": "Settings in which a resumed run may differ from the interrupted one: learning_rate,weight_decay,…"},
    )

    def __post_init__(self) -> None:
        # As people write them: separated by commas, by spaces, with the dashes of the flag.
        words = [word for item in self.accept_changes for word in item.split(",")]
        self.accept_changes = [word.strip().lstrip("-").replace("-", "_") for word in words if word.strip()]
