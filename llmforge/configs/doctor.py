"""What `llmforge doctor` looks at beside the machine itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmforge.configs.remote import RemoteArguments


@dataclass
class DoctorArguments:
    """Where runs would be written and mirrored to, and how long the look may take.

    Raises:
        ConfigError: A URL that is none, or holds a password.
    """

    _argument_group_name = "doctor"

    output_dir: str = field(default="runs", metadata={"help": "Folder of runs whose disk is tried; it is not made."})
    remote: str | None = field(
        default=None, metadata={"help": "Try the store at this URL too: write, read back and delete a small object."}
    )
    quick: bool = field(default=False, metadata={"help": "Leave out the speed, the training run and the heat."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object and nothing else."})

    def __post_init__(self) -> None:
        self.remote = RemoteArguments(remote=self.remote).remote
