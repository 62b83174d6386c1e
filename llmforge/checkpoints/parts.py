"""The files of a checkpoint, written by stock's own methods, at once or from copies of the state."""

from __future__ import annotations

import copy
import threading
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
from llmforge.sharding import gathered

#: Bytes of state that are copied while training goes on; less is copied in no time.
OVERLAPPING_FROM = 1 << 26


class CheckpointParts:
    """Writes what a checkpoint of `trainer` consists of; what no process can do alone is left to the caller."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._snapshot = Snapshot()
        self._tokenizer_files: dict[str, bytes] = {}
        self._told: str | None = None
        self._overlaps = True
        self._copied = threading.Event()
        self._copied.set()

    def write(self, staging: Path, background: bool) -> list[Callable[[], None]]:
        """Write this process's files into `staging`; what can be written while training goes on is returned instead.

        Raises:
            OSError: A file could not be written; or what torch and safetensors raise for that.
        """
        trainer = self.trainer
        later: list[Callable[[], None]] = []
        if trainer.is_fsdp_enabled:
            state = gathered(self._state(), keep=trainer.args.process_index == 0)
            later = [self._writing(staging, state)] if trainer.args.process_index == 0 else []
        elif background and trainer.args.process_index == 0:
            later = self._copies(staging)
        if not later and not trainer.is_fsdp_enabled and (trainer.args.process_index == 0 or not background):
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
        if trainer.is_deepspeed_enabled:
            reason = "the state is spread over the processes"
        elif listening:
            reason = f"{listening[0]} may look at a checkpoint as soon as it is saved"
        else:
            # Of a sharded state there is a copy in any case, which brings the pieces together.
            needed = 0 if trainer.is_fsdp_enabled else state_size(self._state()) - self._snapshot.size
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
        state: dict[str, Any] = {"model": self.trainer.model_state()}
        if not self.trainer.args.save_only_model:
            state["optimizer"] = self.trainer.optimizer.state_dict()
        return state

    def _copies(self, staging: Path) -> list[Callable[[], None]]:
        """Copy model and optimizer into memory, and return what writes them; nothing where the memory is not to be had."""
        state = self._state()
        try:
            copies, fill = self._snapshot.take(state)
            overlapping = self._may_overlap(state)
            if not overlapping:
                fill()
        except (RuntimeError, MemoryError) as error:
            self._snapshot = Snapshot()
            self._tell(f"no memory for a copy ({error})")
            return []
        write = self._writing(staging, copies)
        if overlapping:
            self._copied.clear()

        def write_copies() -> None:
            try:
                if overlapping:
                    fill()
            except OSError:
                self._overlaps = False
                raise
            finally:
                self._copied.set()
            write()

        return [write_copies]

    def _writing(self, staging: Path, state: dict[str, Any]) -> Callable[[], None]:
        """What writes `state`, with the schedule as it is now, as stock does."""
        trainer = self.trainer
        if not self._tokenizer_files:  # which do not change, and take a while to be made
            trainer.write_tokenizer(str(staging))
            self._tokenizer_files = {path.name: path.read_bytes() for path in staging.iterdir() if path.is_file()}
        schedule = copy.deepcopy(trainer.lr_scheduler.state_dict())

        def write() -> None:
            for name, content in self._tokenizer_files.items():
                (staging / name).write_bytes(content)
            trainer.write_model(str(staging), state["model"])
            if "optimizer" in state:
                torch.save(state["optimizer"], staging / OPTIMIZER_NAME)
                torch.save(schedule, staging / SCHEDULER_NAME)

        return write

    def _may_overlap(self, state: dict[str, Any]) -> bool:
        """Whether the state can be copied while the next step's gradients are made: till that is applied nothing changes it.

        From a GPU the copy is over sooner than it is worth. A schedule-free optimizer changes the weights when the next
        step begins, a layer-wise one when a gradient is there.
        """
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)  # accelerate's wrapper has every method
        name = str(getattr(self.trainer.args.optim, "value", self.trainer.args.optim))
        stays = not hasattr(optimizer, "eval") and not name.endswith("layerwise") and "lomo" not in name
        return self._overlaps and stays and self.trainer.args.device.type == "cpu" and state_size(state) >= OVERLAPPING_FROM

    def await_copy(self) -> None:
        """Wait till the state is copied: the next step is about to change it."""
        self._copied.wait()

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
