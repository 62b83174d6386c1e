"""Takes the losses that are not logged yet along in a checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class LossWindow(TrainerCallback, ExportableState):
    """What has been trained since the last log event, as a part of the checkpoint's state.

    Stock begins to sum anew after a resume: the first loss logged then is the mean over fewer steps
    than it is for an undisturbed run.

    Args:
        loss: Sum of the losses of the steps since the last log event.
        steps: How many steps that are.
    """

    def __init__(self, loss: float = 0.0, steps: int = 0):
        self.loss = loss
        self.steps = steps

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json``, and makes the callback of again."""
        return {"args": {"loss": self.loss, "steps": self.steps}, "attributes": {}}
