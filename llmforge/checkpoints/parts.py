"""The files of a checkpoint, written by stock's own methods, at once or from copies of the state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import ExportableState

from llmforge.checkpoints.snapshot import Snapshot, has_room, state_size
from llmforge.runtime.devices import format_bytes
from llmforge.runtime.logs import logger


class CheckpointParts:
    """Writes what a checkpoint of `trainer` consists of; what no process can do alone is left to the caller."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._snapshot = Snapshot()
        self._tokenizer_files: dict[str, bytes] = {}
        self._told: str | None = None

    def write(self, staging: Path, background: bool) -> list[Callable[[], None]]:
        """Write this process's files into `staging`; what can be written while training goes on is returned instead.

        Raises:
            OSError: A file could not be written; or what torch and safetensors raise for that.
        """
        trainer = self.trainer
        later: list[Callable[[], None]] = []
        if background and trainer.args.process_index == 0:
            later = self._copied(staging)
        if not later and (trainer.args.process_index == 0 or not background):
            trainer.save_model(str(staging), _internal_call=True)
            if not trainer.args.save_only_model:
                trainer._save_optimizer_and_scheduler(str(staging))
        if not trainer.args.save_only_model:
            trainer._save_scaler(str(staging))
            trainer._save_rng_state(str(staging))
        return later

    def can_wait(self) -> bool:
        """Whether a checkpoint can be written while training goes on; told once where it cannot."""
        trainer = self.trainer
        listening = [
            type(callback).__name__
            for callback in trainer.callback_handler.callbacks
            if type(callback).on_save is not TrainerCallback.on_save and not type(callback).__module__.startswith("llmforge.")
        ]
        reason = None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            reason = "the state is spread over the processes"
        elif listening:
            reason = f"{listening[0]} may look at a checkpoint as soon as it is saved"
        else:
            needed = state_size(self._state()) - self._snapshot.size
            if needed > 0 and not has_room(needed):
                reason = f"no {format_bytes(needed)} of memory for a copy"
        if reason is not None:
            self._tell(reason)
        return reason is None

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            logger.warning("checkpoints are saved while training waits: %s", reason)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"model": self.trainer.model.state_dict()}
        if not self.trainer.args.save_only_model:
            state["optimizer"] = self.trainer.optimizer.state_dict()
        return state

    def _copied(self, staging: Path) -> list[Callable[[], None]]:
        """Copy model and optimizer into memory, and return what writes them; nothing where the memory is not to be had."""
        trainer = self.trainer
        try:
            copies = self._snapshot.take(self._state())
        except (RuntimeError, MemoryError) as error:
            self._snapshot = Snapshot()
            self._tell(f"no memory for a copy ({error})")
            return []
        if not self._tokenizer_files:  # which do not change, and take a while to be made
            trainer.processing_class.save_pretrained(str(staging))
            self._tokenizer_files = {path.name: path.read_bytes() for path in staging.iterdir() if path.is_file()}
        schedule = copy.deepcopy(trainer.lr_scheduler.state_dict())

        def write() -> None:
            for name, content in self._tokenizer_files.items():
                (staging / name).write_bytes(content)
            trainer.write_model(str(staging), copies["model"])
            if "optimizer" in copies:
                torch.save(copies["optimizer"], staging / OPTIMIZER_NAME)
                torch.save(schedule, staging / SCHEDULER_NAME)

        return [write]

    def exported_state(self) -> Any:
        """The `TrainerState` to be written, with that of the callbacks in it; what the loop does to its own leaves it alone."""
        trainer = self.trainer
        known = trainer.state.stateful_callbacks
        for callback in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(callback, ExportableState):
                kind = type(callback).__name__
                if isinstance(known[kind], list):
                    known[kind].append(callback.state())
                else:
                    known[kind] = callback.state()
        state = copy.copy(trainer.state)
        state.log_history = list(state.log_history)  # whose entries stay as they are once they are there
        state.stateful_callbacks = copy.deepcopy(known)
        return state
