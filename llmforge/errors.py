"""Every failure a user can cause or meet, with the exit code it ends in.

A message says what is wrong, shows the value that was received and names the
remedy, in one line. ``assert`` and the built-in exceptions are for our own bugs.
"""

from __future__ import annotations

from typing import Literal

#: The page of symptoms, each with what diagnoses it and what helps.
TROUBLESHOOTING = "docs/troubleshooting.md"

#: Its entries, by their anchors; empty for none.
Entry = Literal[
    "",
    "no-gpu",
    "out-of-memory",
    "invalid-device-function",
    "wrong-numbers",
    "loss-flat",
    "loss-nan",
    "gpu-idle",
    "slow-or-throttled",
    "slow-disk",
    "disk-full",
    "overfitting",
    "bucket-access",
    "resume-refused",
    "system-limits",
    "broken-installation",
]


class LlmforgeError(Exception):
    """Base of all llmforge errors; `exit_code` is what ``llmforge VERB`` returns.

    Args:
        problem: What is wrong, with the value received.
        remedy: What to do about it, as a sentence; empty where nothing can be done.
        see: Instead of the class's own `see`.
    """

    exit_code = 1
    #: The entry of `TROUBLESHOOTING` that says more, by its anchor; empty where none does.
    see: Entry = ""
    #: True where another process of the launch has already told of it.
    relayed = False

    def __init__(self, problem: str, remedy: str = "", see: Entry | None = None):
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        if see is not None:
            self.see = see
        super().__init__(f"{self.problem} {self.remedy}".strip())


class ConfigError(LlmforgeError):
    """Wrong usage or configuration: a flag, a YAML key, or two that contradict each other."""

    exit_code = 2


class DataError(LlmforgeError):
    """The corpus or the prepared dataset cannot be used."""

    exit_code = 3


class CheckpointError(LlmforgeError):
    """No usable checkpoint or model where one was asked for."""

    exit_code = 4


class StorageError(LlmforgeError):
    """A file could not be written or read back: disk full, no permission."""

    exit_code = 5
    see: Entry = "disk-full"


class TrainingDiverged(LlmforgeError):
    """The loss or the gradient became NaN or infinite; nothing of that step was applied."""

    exit_code = 6
    see: Entry = "loss-nan"


class CheckFailed(LlmforgeError):
    """A check found something wrong; it did its work, and no file of its own is at fault."""

    exit_code = 7


#: Exit code of a run that was interrupted and can be started again with ``--resume``.
EXIT_PREEMPTED = 75


class Preempted(LlmforgeError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and did; no failure.

    Args:
        problem: By what and when.
        remedy: How to go on.
        step: Optimizer steps done.
    """

    exit_code = EXIT_PREEMPTED

    def __init__(self, problem: str, remedy: str = "", step: int | None = None):
        super().__init__(problem, remedy)
        self.step = step
