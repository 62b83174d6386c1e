"""llmforge pretrain --preset gpt2-124m --corpus DIR

Train a GPT-2 or GPT-NeoX model from scratch on your own text. The stages are functions, so
that a recipe script can show them; `pretrain_model` is all of them in a row.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import transformers

from llmforge.auto_batch import choose_batch, train_fitting
from llmforge.build import build_trainer, check_callbacks, without_validation
from llmforge.checkpoints.resume import find_checkpoint
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.data import DataArguments
from llmforge.configs.deadline import DeadlineArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import PretrainConfig, RunArguments, RunConfig
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments, deferred_process_group
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.data.sources.corpus import check_corpus
from llmforge.dial import refuse_late, set_dial
from llmforge.errors import ConfigError
from llmforge.evaluation import evaluate_on, report
from llmforge.mirroring import check_remote, default_folder, is_remote
from llmforge.models import build_config, build_model, check_block_size, embedding_rows, get_preset
from llmforge.optimizers import check_optimizer
from llmforge.parsing import ForgeParser, Parsed
from llmforge.pretrained.folder import find_folder
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.recall import recall_data
from llmforge.results import RunResult, finish
from llmforge.run import announce, open_run
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import (
    local_world_size,
    on_first_machine,
    rank_zero_first,
    refuse_missing_gpus,
    world_size,
)
from llmforge.runtime.logs import logger, set_up_logging
from llmforge.runtime.precision import apply_precision
from llmforge.runtime.run_folder import FINAL, refuse_used_folder
from llmforge.runtime.run_lock import alone_in, refuse_running
from llmforge.runtime.trackers import check_trackers
from llmforge.scoring.result import Evaluation, result_path
from llmforge.trainer import ForgeTrainer

#: What the verbs that train do.
_WHAT = {
    "pretrain": "Train a GPT-2 or GPT-NeoX model from scratch on your own text: --corpus DIR --deadline 30m is enough.",
    "finetune": "Go on training a model, on the rows of a task or on plain text: --from_pretrained DIR --train_file FILE.",
}


def parse_run(own: Sequence[type], verb: str, argv: Sequence[str] | None, recipe: str | None) -> tuple[Parsed, str]:
    """The command line of a training.

    Args:
        own: The dataclasses of this kind of training; those that all have come after them.
        verb: ``pretrain`` or ``finetune``.
        argv: Arguments, by default those of the process.
        recipe: As for `parse_pretrain`.

    Returns:
        What was given, and what runs are called by: the recipe's name, or the verb.
    """
    set_up_logging()
    transformers.utils.logging.disable_progress_bar()  # the bars of loading and saving; Trainer's own stay
    script = Path(recipe) if recipe else None
    classes = [*own, CheckpointArguments, RemoteArguments, GenerationArguments, RunArguments]
    parser = ForgeParser(
        classes,
        dry_run=True,
        prog=f"python {script.name}" if script else f"llmforge {verb}",
        description=_WHAT[verb],
    )
    folder = script.parent / "configs" / script.stem if script else None
    with deferred_process_group():
        return parser.parse(argv, folder, "demo" if script else None), script.stem if script else verb


def parse_pretrain(argv: Sequence[str] | None = None, recipe: str | None = None) -> PretrainConfig:
    """The configuration of a pretraining run from the command line.

    Args:
        argv: Arguments, by default those of the process.
        recipe: A recipe's ``__file__``: its ``configs/<recipe>/`` is where ``--config NAME`` looks,
            ``demo`` is what it runs by default, and its name is the run's.

    Raises:
        ConfigError, DataError, CheckpointError: Whatever can be refused before data is read.
    """
    parsed, stem = parse_run(
        [DeadlineArguments, ModelArguments, TokenizerArguments, DataArguments, ForgeTrainingArguments], "pretrain", argv, recipe
    )
    model = parsed.get(ModelArguments)
    config = PretrainConfig(
        training=parsed.get(ForgeTrainingArguments),
        model=model,
        tokenizer=parsed.get(TokenizerArguments),
        data=parsed.get(DataArguments),
        generation=parsed.get(GenerationArguments),
        run=parsed.get(RunArguments),
        checkpoint=parsed.get(CheckpointArguments),
        remote=parsed.get(RemoteArguments),
        deadline=parsed.get(DeadlineArguments),
        dry_run=parsed.dry_run,
    )
    if config.deadline.deadline is not None:  # which takes its time to choose
        check_place(config, "output_dir" in parsed.changed)
    set_dial(config, parsed.given, parsed.changed)
    config.name = f"{stem}-{parsed.config_path.stem if parsed.config_path else model.preset}"
    check_config(config, named_folder="output_dir" in parsed.changed)
    return config


def check_config(config: PretrainConfig, named_folder: bool = True) -> None:
    """Refuse what cannot work before anything expensive starts, and fill in what follows from the rest.

    Args:
        config: Changed in place: the vocabulary from the preset, the output folder from ``--resume PATH``,
            the precision, and no evaluation where the validation split has no share.
        named_folder: Whether `training.output_dir` was chosen by the user; otherwise a new one is made.

    Raises:
        ConfigError: Settings that contradict each other, a folder that holds another run, GPUs that are not there,
            or several machines without a folder in common.
        DataError: No corpus where one is needed.
        CheckpointError: ``--resume`` names a checkpoint that cannot be used.
        StorageError: The store of ``--remote`` cannot be used.
    """
    config.checked = True
    check_trackers(config.training.report_to)
    # Asked in each machine's first process and told once.
    rank_zero_first()(lambda: refuse_missing_gpus(config.training))
    preset = get_preset(config.model.preset)
    if config.tokenizer.vocab_size is None:
        config.tokenizer.vocab_size = preset.vocab_size
    sketch = build_config(config.model, embedding_rows(config.tokenizer.vocab_size))
    check_optimizer(config.training, sketch.model_type)
    recall_data(config)
    if config.data.dataset_dir is not None:
        prepared = load_prepared(config.data.dataset_dir)
        block_size, validates = prepared.block_size, "validation" in prepared.card["splits"]
        if block_size != config.data.block_size:
            logger.info("block size %d: that of the prepared dataset", block_size)
            config.data.block_size = block_size
    else:
        check_corpus(config.data)
        validates = config.data.ratios()[1] > 0 or any(source.split == "validation" for source in config.data.sources())
    check_callbacks(config.training, config.run)
    if not validates:
        without_validation(config.training, config.run)
    if not config.run.eval_only:  # the model is there, and may be of another shape than the flags say
        check_block_size(sketch, config.data.block_size)
    check_run(config, sketch.hidden_size, named_folder)


def check_run(config: RunConfig, width: int, named_folder: bool) -> None:
    """Refuse a precision that contradicts itself, a folder that is taken, and a checkpoint that cannot be resumed from.

    Args:
        config: Of any training; the precision, the learning rate and the folder are filled in.
        width: Of the model's hidden states.
        named_folder: As `check_config`.

    Raises:
        ConfigError, CheckpointError: As `check_config`.
    """
    apply_precision(config.training)
    config.training.choose_learning_rate(width)
    resume = config.run.resume
    check_place(config, named_folder)
    if resume is None and not config.run.eval_only:
        if not named_folder and world_size() > local_world_size():
            raise ConfigError(
                "Several machines need one run folder, and none is given.",
                "Give each the same --output_dir, on a file system that all of them see.",
            )
        if not named_folder:
            config.training.output_dir = None
        _check_mirror(config)
        return
    if not named_folder and is_remote(resume):
        config.training.output_dir = default_folder(str(resume))
    elif not named_folder:
        config.training.output_dir = str(Path(str(resume)).resolve().parent)
    folder = Path(config.training.output_dir or ".")
    rank_zero_first()(lambda: refuse_running(folder) if on_first_machine() else None)
    # A look at names and sizes, so that what is plainly wrong is told before data is prepared; `open_run` reads the files.
    settings, scaler = config.checkpoint, config.training.fp16
    if resume is None:
        find_folder(str(folder / FINAL), "--eval_only")
    elif not is_remote(resume) and not config.remote.remote:
        find_checkpoint(folder, resume, False, settings.allow_fresh_optimizer or config.run.eval_only, scaler)
    _check_mirror(config)


def check_place(config: RunConfig, named_folder: bool) -> None:
    """Refuse a folder that holds another run, and a run to go on with or to evaluate that is not named.

    Raises:
        ConfigError: As `check_config`.
    """
    folder, resume = Path(config.training.output_dir or "."), config.run.resume
    if resume is None and not config.run.eval_only:
        if named_folder:
            # Asked once for all processes, on the first machine: it may have begun to write when another one asks.
            rank_zero_first()(lambda: _refuse_taken_folder(folder) if on_first_machine() else None)
    elif not named_folder and not is_remote(resume) and (resume is None or not Path(resume).is_dir()):
        flag = "--eval_only" if resume is None else "--resume" if resume == "newest" else f"--resume {resume}"
        raise ConfigError(f"{flag} does not say which run.", "Give --output_dir with the run's folder.")


def _check_mirror(config: RunConfig) -> None:
    """With `--no-background-upload` a step waits for the checkpoint before it, which is written and uploaded at once."""
    if config.remote.remote and not config.remote.background_upload:
        config.checkpoint.async_save = False
    if not config.dry_run and not config.run.eval_only:
        rank_zero_first()(lambda: check_remote(config))


def _refuse_taken_folder(folder: Path) -> None:
    refuse_running(folder)
    refuse_used_folder(folder)


def prepare_run(config: PretrainConfig) -> PreparedDataset:
    """Prepare the data of a run, or find it prepared; with `dry_run`, describe the run and stop.

    On several processes the first one of each machine prepares, before a process group is
    started, and the others wait for it.

    Raises:
        DataError, ConfigError, StorageError: As `prepare_dataset`.
        SystemExit: After a dry run.
    """

    if not config.checked:
        check_config(config, named_folder=config.training.explicit_folder)

    def make() -> str:
        return str(prepare_dataset(config.data, config.tokenizer).path)

    # Also while data is prepared, which may take long, the folder is this run's.
    folder = None if config.dry_run else config.training.output_dir
    with alone_in(folder, lambda: None, begins=False) if folder else contextlib.nullcontext():
        data = load_prepared(rank_zero_first()(make))
    rank_zero_first()(lambda: refuse_late(config))
    choose_batch(config, data)
    if config.dry_run:
        announce(config, data)
        raise SystemExit(0)
    if config.run.eval_only:
        evaluate_run(config, data)
        raise SystemExit(0)
    return data


def evaluate_run(config: RunConfig, data: PreparedDataset) -> Evaluation:
    """Evaluate what a run has trained on its test split, or on validation where there is none; ``--eval_only``.

    Raises:
        CheckpointError: The run has no ``final/``, or ``--resume`` names a checkpoint that cannot be used.
        DataError: There is no held-out data.
    """
    folder, resume = Path(config.training.output_dir or "."), config.run.resume
    chosen = find_checkpoint(folder, resume, False, fresh_optimizer=True) if resume is not None else None
    model = chosen or folder / FINAL
    settings = EvaluationArguments(
        model=str(model),
        dataset_dir=str(data.path),
        split="test" if "test" in data.dataset else "validation",
        samples=0,
        per_device_eval_batch_size=config.training.per_device_eval_batch_size,
    )
    evaluation = evaluate_on(load_pretrained_model(str(model)), data, settings)
    report(evaluation, result_path(model) if model.name != FINAL else folder / "eval.json")
    return evaluation


def pretrain_model(config: PretrainConfig) -> RunResult:
    """Train the model that `config` describes, from its corpus to ``final/``.

    Raises:
        LlmforgeError: One of its kinds, by what went wrong; see the stages.
    """
    data = prepare_run(config)
    with open_run(config, data) as run:

        def build() -> ForgeTrainer:
            model = build_model(config.model, data.tokenizer, data.block_size, seed=config.training.seed)
            return build_trainer(
                *(model, data, config.training, config.generation, config.run, run.path, config.data.max_eval_samples),
                *(run.callbacks, config.checkpoint),
            )

        return finish(train_fitting(build, config, run), run, config, data)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge pretrain`."""
    pretrain_model(parse_pretrain(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
