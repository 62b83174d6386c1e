"""How `ForgeTrainer` saves and loads: its overrides of Trainer's methods that have to do with checkpoints.

What they do beyond calling stock's own is in `llmforge.checkpoints`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import SaveStrategy

from llmforge.callbacks.divergence import refuse_non_finite
from llmforge.callbacks.loss_window import LossWindow
from llmforge.checkpoints.restore import evaluation_is_due, restore_optimizer
from llmforge.checkpoints.resume import loading
from llmforge.checkpoints.writer import CheckpointWriter
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.errors import CheckpointError
from llmforge.pretrained.adapters import save_adapter
from llmforge.pretrained.beside import beside_of
from llmforge.runtime.signals import stop_signals
from llmforge.sharding import load_weights, spread_optimizer_state

#: At run time `ForgeTrainer` stays the only subclass of Trainer.
_Trainer = Trainer if TYPE_CHECKING else object


class Checkpointing(_Trainer):  # type: ignore[misc, valid-type]
    """What `ForgeTrainer` is besides a Trainer, as far as checkpoints go."""

    args: ForgeTrainingArguments
    checkpoints: CheckpointWriter

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Extends `Trainer.train`: a checkpoint is verified before anything of it is loaded.

        True means the newest sound one, where stock goes by names; and however training ends, a checkpoint
        that is still being written is awaited, unless a second Ctrl-C says that nothing is.

        Raises:
            CheckpointError: The one given, or all there are, cannot be used.
        """
        try:
            return super().train(self.checkpoints.choose(resume_from_checkpoint), *args, **kwargs)
        finally:
            if not stop_signals.insisted:
                self.checkpoints.close()

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Extends `Trainer._init_training_state`: the best checkpoint is the one of its step in this run's folder.

        Stock goes by the path it was written to; of a run that was moved, or is resumed from another
        working folder, it forgets the best one. It also goes on logging, evaluating and saving as often as was
        said then, whatever is said now. And a checkpoint that plain Trainer wrote may lack our callback's state.
        """
        window = self._loss_window()
        window.loss, window.steps = 0.0, 0
        begun = super()._init_training_state(*args, **kwargs)
        max_steps, steps_an_epoch, _, resumed_from, trial = args
        self.state.compute_steps(self.args, max_steps)
        self.state.stateful_callbacks.setdefault(LossWindow.__name__, window.state())
        self.checkpoints.begin(resumed_from, trial)
        self._due = evaluation_is_due(self.state, self.args, steps_an_epoch)
        return begun

    def _evaluate_again(self, trial: Any) -> None:
        """Make up for an evaluation that a checkpoint was saved before the end of."""
        if self._due:
            self._due = False
            self._determine_best_metric(self._evaluate(trial, None), trial)

    def _loss_window(self) -> LossWindow:
        """The callback, which Trainer replaces by another of its kind at a resume."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, LossWindow))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Replaces `Trainer._save_checkpoint`, which writes in place: ours is committed whole, or not at all.

        Its state knows the tokens and the losses that are not logged yet.
        """
        self._count_tokens()
        window = self._loss_window()
        window.steps = self.state.global_step - self._globalstep_last_logged
        window.loss = float(nested_gather(self._tr_loss, self.args.parallel_mode).mean()) if window.steps else 0.0
        self.checkpoints.save(trial)
        window.loss, window.steps = 0.0, 0

    def prepare_saving(self, trial: Any = None) -> None:
        """Bring the state into the shape that is saved, in every process.

        While a schedule-free optimizer trains, the model holds other weights than its averaged ones; stock
        saves whichever happen to be there.

        Raises:
            TrainingDiverged: Weights are not finite.
        """
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # as stock does before an evaluation; the next step calls its `train`
        refuse_non_finite(self.model, self.state.global_step)
        if self.hp_search_backend is None and trial is None:
            self.store_flos()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Extends `Trainer.save_model`: weights that are not finite are never saved, and schedule-free's averaged ones are."""
        if not _internal_call:
            self.prepare_saving()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Replaces `Trainer._save`: tensors keep the names the model has, and no ``training_args.bin`` is written.

        Stock writes GPT-NeoX's head as ``embed_out``, which `from_pretrained` translates and Trainer
        does not: it resumes, and loads the best model, with a fresh head and a warning. Under
        their own names both read them. The second file is a pickle that nothing needs.
        """
        if self.args.should_save:
            folder = output_dir or self.args.output_dir or "."
            self.write_model(folder, state_dict)
            self.write_tokenizer(folder)

    def write_model(self, folder: str, state_dict: dict[str, Any] | None = None) -> None:
        """Write the model's files, with the tensors of `state_dict` where one is given; of adapters, those alone.

        And what lies beside it: the task of a fine-tuned model, the record of an adapter's base.
        """
        if isinstance(self.model, PreTrainedModel):
            self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
        else:
            save_adapter(self.model, Path(folder), state_dict)
        beside_of(self.model).write(Path(folder))

    def write_tokenizer(self, folder: str) -> None:
        """Write the tokenizer that belongs to the model as it is saved."""
        (beside_of(self.model).tokenizer or self.processing_class).save_pretrained(folder)

    def model_state(self) -> dict[str, Any]:
        """The tensors that a checkpoint holds: the model's, or those of its adapters; tied ones are one object."""
        state: dict[str, Any] = self.model.state_dict(keep_vars=True)
        if isinstance(self.model, PreTrainedModel):
            return state
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in state.items() if name in trained}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Extends `Trainer._determine_best_metric`: a step that is not saved cannot be the best one.

        Stock remembers it as the best all the same, and loads nothing at the end.
        """
        self.checkpoints.settle()  # the best so far may be the one being written, and fail
        by_best = self.args.save_strategy == SaveStrategy.BEST  # saves because of what is returned here
        saved = self.control.should_save or by_best or self.checkpoints.has(self.state.global_step, trial)
        if self.args.load_best_model_at_end and not saved:
            return False
        return bool(super()._determine_best_metric(metrics, trial))

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Extends `Trainer._finalize_training`: what is being written is awaited, and stock deletes nothing.

        It does with a limit of one checkpoint, whichever are not the best.
        """
        self.checkpoints.settle()
        self.state.best_model_checkpoint = self.checkpoints.best_path(trial)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, *args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _load_best_model(self) -> None:
        """Extends `Trainer._load_best_model`: a best checkpoint that is damaged is not loaded, and the last model stays."""
        if self.checkpoints.is_sound(self.state.best_model_checkpoint):
            with loading(self.state.best_model_checkpoint):
                if self.is_fsdp_enabled:
                    self._issue_warnings_after_load(load_weights(self.model, Path(self.state.best_model_checkpoint)))
                else:
                    super()._load_best_model()
        else:
            self.state.best_model_checkpoint = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Extends `Trainer._load_from_checkpoint`: what cannot be loaded is told in one line."""
        with loading(resume_from_checkpoint):
            if self.is_fsdp_enabled:  # stock looks for weights in FSDP's own files, which no other training reads
                self._issue_warnings_after_load(load_weights(self.model, Path(resume_from_checkpoint)))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Extends `Trainer._load_optimizer_and_scheduler`: settings that were changed are the new ones.

        With the state stock also takes the old learning rate, decay and betas from the checkpoint, whatever is
        given now; and where one of the two files is missing it silently loads neither.
        """
        with loading(checkpoint):
            stock = super()._load_optimizer_and_scheduler
            restore_optimizer(self, checkpoint, self._load_sharded_optimizer if self.is_fsdp_enabled else stock)

    def _load_sharded_optimizer(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
        self.optimizer.load_state_dict(spread_optimizer_state(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Extends `Trainer._load_scaler`, which fails where a training in fp16 goes on in another precision."""
        if getattr(self.accelerator, "scaler", None) is not None:
            with loading(checkpoint):
                super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Extends `Trainer._load_rng_state`: what cannot be loaded is told in one line."""
        with loading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Replaces `Trainer._issue_warnings_after_load`: tied weights are not missing, and what is missing is refused.

        Raises:
            CheckpointError: The checkpoint is of another model.
        """
        tied = set(self.model.all_tied_weights_keys)
        wrong = [name for name in (*load_result.missing_keys, *load_result.unexpected_keys) if name not in tied]
        if wrong:
            raise CheckpointError(f"The checkpoint's tensors are not this model's: {wrong[0]} and {len(wrong) - 1} more differ.")
