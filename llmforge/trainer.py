"""`transformers.Trainer`, made right for packed rows.

Trainer's loop is the loop. What is overridden here, each override names the stock method
it replaces and why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import nested_gather

from llmforge.callbacks.epoch_order import EpochOrder
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.callbacks.loss_window import LossWindow
from llmforge.callbacks.progress import Progress
from llmforge.callbacks.run_log import RunLog
from llmforge.callbacks.samples import Samples
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.run import RunArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.prepare import PreparedDataset
from llmforge.data.rows import PackedRows
from llmforge.data.sampler import EpochSampler
from llmforge.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from llmforge.losses import install_losses
from llmforge.metrics import summarise
from llmforge.runtime.launch import refuse_separate_worlds, use_all_cores
from llmforge.runtime.logs import logger
from llmforge.runtime.precision import apply_precision
from llmforge.tokenization import from_pretrained_tokenizer


class ForgeTrainer(Trainer):
    """A `transformers.Trainer` for packed rows.

    Takes what Trainer takes; `processing_class` must be a fast byte-level tokenizer. Datasets
    that are not `PackedRows` are trained on as stock Trainer would.

    Raises:
        TrainingDiverged: From `train`, before the step is applied whose loss or gradient is not finite.
    """

    args: ForgeTrainingArguments

    def __init__(self, model: PreTrainedModel, args: ForgeTrainingArguments, **kwargs: Any):
        apply_precision(args)
        tokenizer = kwargs["processing_class"]
        self._token_bytes = torch.from_numpy(from_pretrained_tokenizer(tokenizer).byte_lengths())
        missing = model.config.vocab_size - len(self._token_bytes)
        self._token_bytes = nn.functional.pad(self._token_bytes, (0, max(missing, 0)))
        kwargs.setdefault("compute_metrics", lambda prediction: summarise(prediction.predictions))
        self._step_loss: torch.Tensor | None = None
        self._new_tokens: torch.Tensor | None = None
        self._logged: tuple[float, int] | None = None  # when, and at how many tokens, the rate was last taken
        self.sampler: EpochSampler | None = None
        super().__init__(model=install_losses(model), args=args, **kwargs)
        self.add_callback(LossWindow)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[Any] | None:
        """Replaces `Trainer._get_train_sampler`: its order depends on the process and repeats rows at an epoch's end."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, PackedRows):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        step_rows = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.sampler = EpochSampler(len(dataset), step_rows, seed)
        self.remove_callback(EpochOrder)
        self.add_callback(EpochOrder(self.sampler))
        return self.sampler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Extends `Trainer._init_training_state`: the best checkpoint is the one in this run's folder.

        Stock goes by the path it was written to; of a run that was moved, or is resumed from another
        working folder, it forgets the best one.
        """
        begun = super()._init_training_state(*args, **kwargs)
        best = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        return begun

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Extends `Trainer._run_epoch`: a resumed run goes on with the losses not yet logged, and not past its end.

        Stock sums them anew; and it looks for the end only after a step, and so trains one more.
        """
        window = self._loss_window()
        if window.steps:
            self._tr_loss += window.loss
            self._total_loss_scalar -= window.loss  # the summary at the end is of this call's own steps
            self._globalstep_last_logged -= window.steps
            window.loss, window.steps = 0.0, 0
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader[Any]:
        """Extends `Trainer._get_dataloader`: the loader of packed rows leaves the global random state to dropout.

        A loader draws a seed whenever it makes an iterator, which persistent workers do once and others
        every epoch; a resumed run makes one more, and its dropout masks would be other ones.
        """
        loader = super()._get_dataloader(dataset, *args, **kwargs)
        if isinstance(dataset, PackedRows):  # which have nothing random in them
            getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Replaces `Trainer.get_decay_parameter_names`, which goes by names: decay belongs on matrices only."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Extends `Trainer.training_step`: remembers the loss on the device until the step is about to be applied."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        first = self._step_loss is None
        self._step_loss = loss if first else self._step_loss + loss
        if first and torch.is_tensor(num_items_in_batch):  # the same count comes with every micro-batch of a step
            self._new_tokens = num_items_in_batch if self._new_tokens is None else self._new_tokens + num_items_in_batch
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Extends `Trainer._get_grad_norm`, the last stop before the optimizer: NaN goes no further.

        Under DDP the gradients, and so their norm, are the same on every rank, which all stop at
        the same step. With an fp16 scaler an infinite norm is part of its search for a scale; there
        the loss alone decides.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        loss, self._step_loss = self._step_loss, None
        watched = [value for value in (loss, None if self.args.fp16 else norm) if torch.is_tensor(value)]
        if watched and not bool(torch.stack([torch.isfinite(value.detach()).all() for value in watched]).all()):
            raise TrainingDiverged(
                f"Step {self.state.global_step + 1}: loss {float(loss if loss is not None else 'nan'):.4g}, "
                f"gradient norm {float(norm):.4g}. The step was not applied.",
                "Resume from the last checkpoint with a lower --learning_rate, more --warmup_steps or a smaller --max_grad_norm.",
            )
        return norm

    def _count_tokens(self) -> None:
        """Move the tokens counted on the device into the state; one synchronisation a log event."""
        if self._new_tokens is not None:
            self.state.num_input_tokens_seen += int(self._new_tokens)
            self._new_tokens = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Extends `Trainer.log`: tokens trained on, and their rate since the last event, without a sync a micro-batch."""
        self._count_tokens()
        seen = self.state.num_input_tokens_seen
        logs["tokens"] = seen
        now = time.perf_counter()
        if "loss" in logs and self._logged is not None:
            then, before = self._logged
            logs["tokens_per_second"] = round((seen - before) / (now - then), 1)
        super().log(logs, start_time)
        # Taken after an evaluation's own event: the time it took is not training's.
        self._logged = (time.perf_counter() if "eval_loss" in logs else now, seen)

    def _loss_window(self) -> LossWindow:
        """The callback, which Trainer replaces by another of its kind at a resume."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, LossWindow))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Extends `Trainer._save_checkpoint`: what it writes knows the tokens and the losses since the last log event."""
        self._count_tokens()
        window = self._loss_window()
        window.steps = self.state.global_step - self._globalstep_last_logged
        window.loss = float(nested_gather(self._tr_loss, self.args.parallel_mode).mean()) if window.steps else 0.0
        super()._save_checkpoint(model, trial)
        window.loss, window.steps = 0.0, 0

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Extends `Trainer._determine_best_metric`: a step that is not saved cannot be the best one.

        Stock remembers it as the best all the same, and loads nothing at the end.
        """
        if self.args.load_best_model_at_end and not self.control.should_save:
            return False
        return super()._determine_best_metric(metrics, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Replaces `Trainer._save`: tensors keep the names the model has, and no ``training_args.bin`` is written.

        Stock writes GPT-NeoX's head as ``embed_out``, which `from_pretrained` translates and Trainer
        does not: it resumes, and loads the best model, with a fresh head and a warning. Under
        their own names both read them. The second file is a pickle that nothing needs.
        """
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            names = {"save_original_format": False} if isinstance(self.model, PreTrainedModel) else {}
            self.model.save_pretrained(folder, state_dict=state_dict, **names)
            self.processing_class.save_pretrained(folder)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Replaces `Trainer._issue_warnings_after_load`: tied weights are not missing, and what is missing is refused.

        Raises:
            CheckpointError: The checkpoint is of another model.
        """
        tied = set(self.model.all_tied_weights_keys)
        wrong = [name for name in (*load_result.missing_keys, *load_result.unexpected_keys) if name not in tied]
        if wrong:
            raise CheckpointError(f"The checkpoint's tensors are not this model's: {wrong[0]} and {len(wrong) - 1} more differ.")

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Replaces `Trainer.prediction_step` on packed rows: sums a row, made inside the forward pass.

        Stock gathers logits and averages averages. No loss is returned, so that stock's own
        ``eval_loss`` does not overwrite the one counted from the sums.
        """
        if "shift_labels" not in inputs:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        self._token_bytes = self._token_bytes.to(inputs["input_ids"].device)
        with torch.no_grad(), self.compute_loss_context_manager():
            sums = model(**inputs, token_bytes=self._token_bytes)["row_sums"]
        return None, sums, sums[:, 1]


def build_trainer(
    model: PreTrainedModel,
    data: PreparedDataset,
    args: ForgeTrainingArguments,
    generation: GenerationArguments | None = None,
    run: RunArguments | None = None,
    folder: Path | None = None,
    max_eval_samples: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> ForgeTrainer:
    """A trainer with everything a run wants: packed rows, evaluation, curves, samples, records.

    Args:
        model: From `build_model` or `from_pretrained`, GPT-2 or GPT-NeoX.
        data: From `prepare_dataset`; its validation split, if any, is evaluated on.
        args: Training arguments; evaluation is switched off in them where there is no validation split.
        generation: Prompts to complete at every evaluation.
        run: Early stopping.
        folder: Where ``metrics.jsonl``, plots and samples go; by default `args.output_dir`.
        max_eval_samples: Evaluate on so many rows only, evenly spread over the split.
        callbacks: More callbacks.

    Raises:
        ConfigError: Early stopping or best-model keeping without validation data; separate worlds.
        DataError: The training split is empty, or was tokenized with another vocabulary than the model's.
    """
    run = run or RunArguments()
    refuse_separate_worlds(args)
    if args.device.type == "cpu":
        use_all_cores()
    train, validation = data.rows("train"), data.rows("validation", max_eval_samples)
    if not train:
        raise DataError(f"{data.path} has no training rows.", "Prepare it with more text.")
    if len(data.tokenizer) > model.config.vocab_size:
        raise DataError(
            f"The dataset's tokenizer has {len(data.tokenizer):,} entries, the model {model.config.vocab_size:,} rows.",
            "Build the model for this tokenizer.",
        )
    if validation is None:
        without_validation(args, run)
    _warn_about_sizes(train, validation, args)
    folder = Path(folder or args.output_dir or ".")
    extra: list[TrainerCallback] = [RunLog(folder), LossPlot(folder / "plots")]
    if generation is not None and generation.prompts:
        extra.append(Samples(data.tokenizer, generation, folder))
    if run.early_stopping_patience is not None:
        extra.append(EarlyStoppingCallback(run.early_stopping_patience, run.early_stopping_threshold))
    trainer = ForgeTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=data.tokenizer,
        data_collator=PackedCollator(),
        callbacks=[*extra, *callbacks],
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(Progress)
    trainer.pop_callback(PrinterCallback)  # RunLog writes those lines
    return trainer


def without_validation(args: ForgeTrainingArguments, run: RunArguments) -> None:
    """Switch off, in `args`, what needs validation data where there is none.

    Raises:
        ConfigError: Early stopping or best-model keeping was asked for.
    """
    if run.early_stopping_patience is not None:
        raise ConfigError(
            f"--early_stopping_patience {run.early_stopping_patience} needs validation data, and there is none.",
            "Give the validation split a share, e.g. --split_ratios 0.9,0.1,0.",
        )
    args.without_evaluation()


def _warn_about_sizes(train: PackedRows, validation: PackedRows | None, args: ForgeTrainingArguments) -> None:
    step_rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if len(train) < step_rows:
        logger.warning(
            "the training split has %d rows, fewer than the %d of one step: each step is one epoch", len(train), step_rows
        )
    batch = args.per_device_eval_batch_size * args.world_size
    if validation is not None and len(validation) < batch:
        logger.warning(
            "the validation split has %d rows, fewer than one batch of %d: its figures will be noisy", len(validation), batch
        )
