"""How a run is watched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmforge.errors import ConfigError


@dataclass
class MonitorArguments:
    """What `llmforge monitor` shows, and how often.

    Raises:
        ConfigError: A time that cannot be, or flags that contradict each other.
    """

    _argument_group_name = "monitor"

    refresh: float = field(default=3.0, metadata={"help": "Seconds between two looks at the run."})
    once: bool = field(default=False, metadata={"help": "Print the view once, as plain text, and leave."})
    logs_only: bool = field(default=False, metadata={"help": "Follow run.log line by line, and nothing else."})
    exit_at_end: bool = field(default=False, metadata={"help": "Leave when the run has ended, instead of showing on how it did."})
    json: bool = field(default=False, metadata={"help": "Print what the view shows as one JSON object, once, and nothing else."})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.refresh) and 0.1 <= self.refresh <= 86_400):
            raise ConfigError(f"--refresh {self.refresh:g} is no time to wait.", "Give seconds, from 0.1 to a day.")
        if self.json and self.logs_only:
            raise ConfigError("--json and --logs_only exclude each other.", "Leave one of them out.")
