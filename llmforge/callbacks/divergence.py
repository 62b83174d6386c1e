"""Stops a run whose numbers are no numbers any more, before they are applied or saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.errors import LlmforgeError, TrainingDiverged
from llmforge.runtime.run_folder import DIVERGENCE
from llmforge.sharding import is_sharded, piece
from llmforge.storage.records import write_json

#: Names shown in the error; all of them are in the record.
_SHOWN = 5
#: fp16: steps skipped in a row after which the scaler is not searching any more. From its
#: start of 65,536 it is at 1 after 16.
_MOST_SKIPPED = 32
_REMEDY = "Resume from the last checkpoint with a lower --learning_rate, more --warmup_steps or a smaller --max_grad_norm."


class Divergence(ForgeCallback):
    """Looks at loss and gradient of every step before the optimizer applies them.

    Under several processes all of them agree to stop at the same step. With fp16 an infinite
    gradient norm is part of the scaler's search for a scale and the step is skipped; there the
    loss decides, or a scaler that skips step after step.

    Args:
        names: Turns the indices of documents into names, as `PreparedDataset.document_names`.
        folder: Where ``divergence.json`` goes, which has the step's loss by micro-batch, its
            gradient norm, rows and documents; nothing is written without.

    Raises:
        TrainingDiverged: Before the step is applied.
    """

    def __init__(self, names: Callable[[Sequence[int]], list[str]] | None = None, folder: Path | None = None):
        self.names = names
        self.folder = folder
        self._skipped = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._skipped = 0

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        losses, norm = self.trainer.last_losses, self.trainer.last_grad_norm
        if not losses:
            return
        watched = [*losses] if args.fp16 else [*losses, norm]
        bad = ~torch.isfinite(torch.stack([torch.as_tensor(value).detach().float().to(losses[0].device) for value in watched]))
        seen = bad.any().to(torch.int32)
        if args.world_size > 1:
            torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
        if bool(seen):
            self._stop(state, [float(loss) for loss in losses], float(norm))

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._skipped = self._skipped + 1 if self.trainer.accelerator.optimizer_step_was_skipped else 0
        if self._skipped >= _MOST_SKIPPED:
            raise TrainingDiverged(
                f"Step {state.global_step + 1}: fp16 gradients overflowed in {self._skipped} steps in a row.",
                f"{_REMEDY} Or train in bf16 or fp32 (--precision).",
            )

    def _stop(self, state: TrainerState, losses: list[float], norm: float) -> None:
        step = state.global_step + 1
        rows = self.trainer.rows_of_step(state.global_step)
        documents = sorted({int(document) for row in rows for document in row["segment_documents"]})
        names = [f"number {index}" for index in documents]
        if self.names is not None:
            with contextlib.suppress(OSError, LlmforgeError):  # the divergence is what is to be told
                names = self.names(documents)
        told = ""
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            told = f" Documents of the step: {', '.join(names[:_SHOWN])}{more}."
        if self.folder is not None and state.is_world_process_zero:
            record = {"step": step, "micro_batch_losses": losses, "grad_norm": norm, "documents": names}
            with contextlib.suppress(OSError, LlmforgeError):
                write_json(self.folder / DIVERGENCE, record)
                told += f" ({DIVERGENCE} has all.)" if names else ""
        loss = sum(losses)
        raise TrainingDiverged(
            f"Step {step}: loss {loss:.4g}, gradient norm {norm:.4g}. The step was not applied.{told}", _REMEDY
        )


def refuse_non_finite(model: nn.Module, step: int) -> None:
    """Refuse weights that are not finite, so that they are never saved.

    A step from finite gradients can still overflow the weights.

    Raises:
        TrainingDiverged: Some weight is NaN or infinite; the parameter is named.
    """
    with torch.no_grad():
        named = [(name, piece(parameter)) for name, parameter in model.named_parameters() if parameter.numel()]
        # A sum is not finite if a term is not, and seldom otherwise; one number a parameter, one look in all.
        sums = torch.stack([tensor.sum(dtype=torch.float32) for _, tensor in named])
        suspects = torch.nonzero(~torch.isfinite(sums)).flatten().tolist()
        bad = [place for place in suspects if not bool(torch.isfinite(named[place][1]).all())]
        if is_sharded(model):  # another process may hold the piece that is not
            flags = torch.zeros(len(named), dtype=torch.int32, device=sums.device)
            flags[bad] = 1
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
            bad = torch.nonzero(flags).flatten().tolist()
    if bad:
        raise TrainingDiverged(
            f"Step {step} left weights that are not finite ({named[bad[0]][0]}, {len(bad)} parameters in all); "
            "they were not saved.",
            _REMEDY,
        )
