"""What a look at the machine found: how bad, in one line, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmforge.errors import TROUBLESHOOTING, Entry

Level = Literal["ok", "note", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: What was looked at, in one word.
        level: ``ok``; ``note``: worth knowing; ``warning``: training works, but not as well as it could;
            ``failure``: training will not work.
        text: What was found, in one line.
        remedy: What to do about it, as a sentence.
        see: The entry of docs/troubleshooting.md that says more, by its anchor.
        simulated: Whether finding this was only ever tried on simulated machines.
    """

    subject: str
    level: Level
    text: str
    remedy: str = ""
    see: Entry = ""
    simulated: bool = False

    @property
    def advice(self) -> str:
        """The remedy and where to read on; empty where there is nothing to do."""
        where = f"({TROUBLESHOOTING}#{self.see})" if self.see else ""
        return f"{self.remedy} {where}".strip()

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``checked_on`` says where finding it was tried."""
        values = asdict(self)
        values["see"] = f"{TROUBLESHOOTING}#{self.see}" if self.see else ""
        values["checked_on"] = "simulated machines only" if values.pop("simulated") else "a real machine"
        return values


#: What libraries say, in lower case → the entry that explains it, and the remedy.
_SAID: tuple[tuple[str, Entry, str], ...] = (
    (
        r"invalid device function|no kernel image|hiperrornobinaryforgpu",
        "invalid-device-function",
        "This build of PyTorch has no kernels for the card: install one that has.",
    ),
    (r"out of memory", "out-of-memory", "Free the device: something else is using its memory."),
    (r"no space left|disk quota|disk of .* is full|file too large", "disk-full", "Free some space."),
    (r"too many open files", "system-limits", "Raise the limit: ulimit -n 4096."),
    (r"bus error|shared memory|shm", "system-limits", "Give /dev/shm more room: docker run --shm-size=1g."),
    (r"not finite|nan", "loss-nan", "See whether the numerics above are right."),
)


#: Where nothing better is known.
_ANEW = "Install the libraries anew, in an environment of their own; report it if that does not help."


def explained(subject: str, said: str, remedy: str = _ANEW, see: Entry = "broken-installation") -> Finding:
    """A failure that a library told of, with the remedy for what it said, where that is known.

    Args:
        subject: What was being looked at.
        said: By the library; its first line is told.
        remedy: Where nothing better is known.
        see: The same.
    """
    line = next((line.strip() for line in said.splitlines() if line.strip()), "no reason was given")
    for pattern, anchor, known in _SAID:
        if re.search(rf"\b(?:{pattern})\b", said.lower()):
            return Finding(subject, "failure", line[:300], known, anchor)
    return Finding(subject, "failure", line[:300], remedy, see)
