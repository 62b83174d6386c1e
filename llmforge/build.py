"""A trainer with everything a run wants, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar

from llmforge.callbacks.divergence import Divergence
from llmforge.callbacks.early_stopping import EarlyStopping
from llmforge.callbacks.histograms import Histograms, check_tracker
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.callbacks.progress import Progress
from llmforge.callbacks.run_log import RunLog
from llmforge.callbacks.run_report import RunReport
from llmforge.callbacks.samples import Samples
from llmforge.callbacks.stop import StopOnSignal
from llmforge.callbacks.throughput import Throughput
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.run import RunArguments
from llmforge.configs.training import EVALUATION_METRICS, ForgeTrainingArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import PreparedDataset
from llmforge.data.rows import PackedRows
from llmforge.errors import ConfigError, DataError
from llmforge.optimizers import check_optimizer
from llmforge.runtime.launch import rank_zero_first, refuse_separate_worlds, use_all_cores
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import reserve
from llmforge.runtime.trackers import check_trackers, stay_offline_without_login
from llmforge.sampling.completions import check_prompts
from llmforge.sharding import refuse_unsharded
from llmforge.trainer import ForgeTrainer


def build_trainer(
    model: PreTrainedModel,
    data: PreparedDataset,
    args: ForgeTrainingArguments,
    generation: GenerationArguments | None = None,
    run: RunArguments | None = None,
    folder: Path | None = None,
    max_eval_samples: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    saving: CheckpointArguments | None = None,
) -> ForgeTrainer:
    """A trainer with everything a run wants: packed rows, evaluation, curves, samples, records.

    Args:
        model: From `build_model` or `from_pretrained`, GPT-2 or GPT-NeoX.
        data: From `prepare_dataset`; its validation split, if any, is evaluated on.
        args: Training arguments; evaluation is switched off in them where there is no validation split.
            Without an `output_dir` the run gets a new folder, ``runs/run-<NNN>``, and `args.output_dir` says which.
        generation: Prompts to complete at every evaluation.
        run: Early stopping, histograms, and whether ``report.html`` is written.
        folder: Where ``metrics.jsonl``, plots and samples go; by default `args.output_dir`.
        max_eval_samples: Evaluate on so many rows only, evenly spread over the split.
        callbacks: More callbacks.
        saving: How checkpoints are written.

    Raises:
        ConfigError: Early stopping or best-model keeping without validation data or by a metric that
            does not exist; a prompt longer than the context; a tracker or an optimizer that is not there; separate worlds.
        DataError: The training split is empty, or data, tokenizer and model do not belong together.
    """
    run = run or RunArguments()
    refuse_separate_worlds(args)
    refuse_unsharded(args)
    if folder is None and not args.explicit_folder:  # stock's default is one folder for every run
        args.output_dir = rank_zero_first()(lambda: str(reserve("run")))
    disable_progress_bar()  # those of loading and saving; Trainer's own stay
    if args.device.type == "cpu":
        use_all_cores()
    train, validation = data.rows("train"), data.rows("validation", max_eval_samples)
    if not train:
        raise DataError(f"{data.path} has no training rows.", "Prepare it with more text.")
    data.check(model.config.vocab_size)
    check_trackers(args.report_to)
    check_optimizer(args, model.config.model_type)
    stay_offline_without_login(args.report_to)
    check_callbacks(args, run)
    if validation is None:
        without_validation(args, run)
    if generation is not None:
        check_prompts(generation.prompts, data.tokenizer, model.config.max_position_embeddings)
    _warn_about_sizes(train, validation, args)
    folder = Path(folder or args.output_dir or ".")
    extra: list[TrainerCallback] = [Divergence(data.document_names, folder), RunLog(folder), LossPlot(folder / "plots")]
    if generation is not None and generation.prompts:
        extra.append(Samples(data.tokenizer, generation, folder))
    if run.html_report:
        extra.append(RunReport(folder))
    if run.early_stopping_patience is not None:
        extra.append(EarlyStopping(run.early_stopping_metric, run.early_stopping_patience, run.early_stopping_threshold))
    if run.histogram_steps is not None:
        extra.append(Histograms(run.histogram_steps))
    trainer = ForgeTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=data.tokenizer,
        data_collator=PackedCollator.of(model, data.tokenizer),
        callbacks=[*extra, *callbacks, StopOnSignal()],
        saving=saving,
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(Progress)
    trainer.pop_callback(PrinterCallback)  # RunLog writes those lines
    # First of all, so that its figures reach the trackers and the log.
    throughput = Throughput(_step_rows(args) * data.block_size, data.block_size)
    trainer.callback_handler.callbacks.insert(0, throughput)
    return trainer


def check_callbacks(args: ForgeTrainingArguments, run: RunArguments) -> None:
    """Refuse FSDP on a CPU, a metric to stop or choose by that no evaluation has, patience without any, unseen histograms.

    Raises:
        ConfigError: The known metrics are listed.
    """
    refuse_unsharded(args)
    chosen = {"metric_for_best_model": args.metric_for_best_model, "early_stopping_metric": run.early_stopping_metric}
    for flag, name in chosen.items():
        if name is not None and name.removeprefix("eval_") not in EVALUATION_METRICS:
            raise ConfigError(f"--{flag} {name} is no metric.", f"Known: {', '.join(EVALUATION_METRICS)}.")
    if run.early_stopping_patience is not None and args.eval_strategy == IntervalStrategy.NO:
        raise ConfigError(
            f"--early_stopping_patience {run.early_stopping_patience} with --eval_strategy no: nothing is ever evaluated.",
            "Give --eval_strategy steps, or leave the patience out.",
        )
    if run.histogram_steps is not None:
        check_tracker(args)


def _step_rows(args: ForgeTrainingArguments) -> int:
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


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
    step_rows = _step_rows(args)
    if len(train) < step_rows:
        logger.warning(
            "the training split has %d rows, fewer than the %d of one step: each step is one epoch", len(train), step_rows
        )
    batch = args.per_device_eval_batch_size * args.world_size
    if validation is not None and len(validation) < batch:
        logger.warning(
            "the validation split has %d rows, fewer than one batch of %d: its figures will be noisy", len(validation), batch
        )
