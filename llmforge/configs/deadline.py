"""The one dial: how long a run may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmforge.configs.units import parse_seconds

#: Steps that no training takes: where a deadline is the bound, `max_steps`, `eval_steps` and `save_steps` are this.
UNBOUNDED = 10_000_000


@dataclass
class DeadlineArguments:
    """When a run is to be over.

    Attributes:
        chosen: What was chosen for the deadline, by flag.
        begun: When the command began, on the monotonic clock; the time counts from there.
        earlier: Seconds that the run had used at the checkpoint it goes on from.
        evaluations: How often to evaluate and save, evenly over the time; 0 leaves it to the flags.
        end_seconds: Of the evaluations at start and end and of saving, as foretold.
        step_seconds: Of an optimizer step, as foretold or measured; None where nobody did.

    Raises:
        ConfigError: A time that cannot be.
    """

    _argument_group_name = "time"

    deadline: str | None = field(
        default=None,
        metadata={
            "help": "How long the whole run may take, from its start to its end: 30m, 1h30m, 2d. What is not given otherwise "
            "(model, vocabulary, context, batch, schedule, steps) follows from it, the corpus and the device."
        },
    )
    chosen: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.seconds()
        # Of this process, and no part of what a run is.
        self.begun = 0.0
        self.earlier = 0.0
        self.evaluations = 0
        self.end_seconds = 0.0
        self.step_seconds: float | None = None

    def seconds(self) -> float | None:
        """``--deadline`` in seconds."""
        return None if self.deadline is None else parse_seconds(self.deadline, "--deadline")
