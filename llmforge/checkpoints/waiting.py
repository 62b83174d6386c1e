"""Which checkpoints wait for their upload, which comes next, and which are left out."""

from __future__ import annotations

from pathlib import Path

from llmforge.checkpoints.manifest import checkpoint_step
from llmforge.checkpoints.uploads import Uploads
from llmforge.runtime.logs import logger


class Waiting:
    """The checkpoints that are not uploaded yet; whoever shares one holds a lock.

    Attributes:
        names: From the oldest to the newest; the one on its way is among them.
        active: The one on its way.
        best: The step of the best checkpoint, as the newest remembers it.

    Args:
        uploads: Where is noted what becomes of them.
        most: How many may wait besides the one on its way; beyond, the oldest that is neither the newest nor the best is
            left out.
    """

    def __init__(self, uploads: Uploads, most: int):
        self.uploads, self.most = uploads, most
        self.names: list[str] = []
        self.active: str | None = None
        self.best: int | None = None

    def add(self, name: str, best: int | None) -> None:
        """Queue a checkpoint that was committed, behind all others."""
        self.best = best
        self.uploads.change(self.uploads.checkpoint(name), "queued", best=best, error=None, attempts=0)
        self.names = [item for item in self.names if item != name] + [name]
        kept = {name, f"checkpoint-{best}", self.active}
        waiting = [item for item in self.names if item != self.active]
        for item in [item for item in waiting if item not in kept][: max(len(waiting) - self.most, 0)]:
            self.names.remove(item)
            self.uploads.leave_out(item)
            logger.warning("%s is not uploaded: newer ones came before its turn", item)

    def take(self) -> str | None:
        """The one that goes next: the newest, since nothing is worth more if the machine goes now."""
        self.active = self.names[-1] if self.names else None
        return self.active

    def end(self, over: bool) -> None:
        """The one on its way has arrived, or cannot ever (`over`), or is tried again."""
        if over and self.active in self.names:
            self.names.remove(self.active)
        self.active = None

    def steps(self) -> set[int]:
        """Of all that wait."""
        return {step for name in self.names if (step := checkpoint_step(Path(name))) is not None}
