"""llmforge finetune --from_pretrained runs/NAME/final --train_file data/diagnostics
llmforge finetune --from_pretrained gpt2 --train_file chats.jsonl --lora
llmforge finetune --from_pretrained runs/NAME/final --corpus DIR

Fine-tune a GPT-2 or GPT-NeoX model on the rows of a task, with the loss on what it is to write, or go on training it on plain
text; all of its weights, or adapters (LoRA). Packing, callbacks, checkpoints and resume are those of `llmforge pretrain`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmforge.auto_batch import choose_batch, train_fitting
from llmforge.build import build_trainer, check_callbacks, without_validation
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.data import DataArguments
from llmforge.configs.finetune import FinetuneArguments, FinetuneConfig
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.lora import LoraArguments
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import RunArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.tuning import FinetuneTrainingArguments
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.data.shards import digest
from llmforge.data.sources.corpus import check_corpus
from llmforge.errors import CheckpointError, ConfigError, DataError
from llmforge.optimizers import check_optimizer
from llmforge.pretrain import check_run, evaluate_run, parse_run
from llmforge.pretrained.folder import find_folder
from llmforge.results import RunResult, finish
from llmforge.run import announce, open_run
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import rank_zero_first, refuse_missing_gpus
from llmforge.runtime.logs import logger
from llmforge.runtime.trackers import check_trackers
from llmforge.sampling.completions import encode_prompt
from llmforge.scoring.tasks import score_rows
from llmforge.sharding import refuse_sharding
from llmforge.storage.files import cache_root, new_folder
from llmforge.tasks.examples import fitting_size, prepare_task
from llmforge.tasks.splits import TaskRows, read_task_rows, split_task_rows
from llmforge.trainer import ForgeTrainer
from llmforge.tuning.shape import shape_of, trained_parameters
from llmforge.tuning.start import Start, load_start, tuned_model

#: Prompts of held-out rows that are completed at evaluations, where none are given.
_SAMPLES = 2
#: Tokens of these answers, where neither the task nor a flag says.
_SAMPLE_TOKENS = 64


def parse_finetune(argv: Sequence[str] | None = None, recipe: str | None = None) -> FinetuneConfig:
    """The configuration of a fine-tuning from the command line.

    Args:
        argv: Arguments, by default those of the process.
        recipe: A recipe's ``__file__``, as for `parse_pretrain`.

    Raises:
        ConfigError, DataError, CheckpointError: Whatever can be refused before data is read.
    """
    own = [FinetuneArguments, LoraArguments, DataArguments, FinetuneTrainingArguments]
    parsed, kind = parse_run(own, "finetune", argv, recipe)
    given = parsed.get(FinetuneArguments).from_pretrained
    stem = parsed.config_path.stem if parsed.config_path else Path(given or "").name
    config = FinetuneConfig(
        training=parsed.get(FinetuneTrainingArguments),
        data=parsed.get(DataArguments),
        generation=parsed.get(GenerationArguments),
        run=parsed.get(RunArguments),
        checkpoint=parsed.get(CheckpointArguments),
        remote=parsed.get(RemoteArguments),
        finetune=parsed.get(FinetuneArguments),
        lora=parsed.get(LoraArguments),
        name=f"{kind}-{stem or 'model'}",
        dry_run=parsed.dry_run,
        given=parsed.given,
    )
    return config


def check_finetune(config: FinetuneConfig) -> tuple[Start, TaskRows | None]:
    """Refuse what cannot work before anything expensive starts, and fill in what follows from model and task.

    Returns:
        The model to start from, and the rows of the task, where it is one.

    Raises:
        ConfigError: Settings that contradict each other, a folder that holds another run, GPUs that are not there.
        DataError: No rows or corpus, or rows that cannot be read.
        CheckpointError: The model, or the checkpoint of ``--resume``, cannot be used.
    """
    config.checked = True
    named_folder = config.training.explicit_folder
    check_trackers(config.training.report_to)
    if config.lora.lora:
        refuse_sharding(config.training, "--lora")
    rank_zero_first()(lambda: refuse_missing_gpus(config.training))
    sources = {
        "--train_file": config.finetune.train_file is not None,
        "--corpus": bool(config.data.corpus or config.data.source),
        "--dataset_dir": config.data.dataset_dir is not None,
    }
    given = [name for name, there in sources.items() if there]
    if len(given) != 1:
        told = f"{' and '.join(given)} are all given" if given else "There is nothing to train on"
        raise ConfigError(f"{told}.", f"Give one of {', '.join(sources)}.")
    if config.finetune.from_pretrained is not None:  # a hub id is fetched by one process
        folder = config.finetune.from_pretrained
        rank_zero_first()(lambda: str(find_folder(folder, "--from_pretrained")))
    start = load_start(config)
    config.base = start.found.model.config
    _check_adapters(config, start)
    check_optimizer(config.training, config.base.model_type)
    _choose_block_size(config, start)
    rows: TaskRows | None = None
    if config.finetune.train_file is not None:
        rows = read_task_rows(config.finetune, start.found.path)
        rows = dataclasses.replace(rows, task=rows.task.for_tokenizer(start.tokenizer))
        start.task = rows.task
        validates = rows.validates(config.data)
    elif config.data.dataset_dir is not None:
        validates = "validation" in load_prepared(config.data.dataset_dir).card["splits"]
    else:
        check_corpus(config.data)
        validates = config.data.ratios()[1] > 0 or any(source.split == "validation" for source in config.data.sources())
    check_callbacks(config.training, config.run)
    if not validates:
        without_validation(config.training, config.run)
    check_run(config, config.base.hidden_size, named_folder)
    return start, rows


def _check_adapters(config: FinetuneConfig, start: Start) -> None:
    if not config.lora.lora:
        return
    if config.finetune.from_scratch:
        raise ConfigError("--from_scratch draws the weights anew, which --lora would leave as drawn.", "Leave one of them out.")
    if config.finetune.add_tokens:
        raise ConfigError(
            "--add_tokens needs new rows in the embeddings, which --lora leaves as they are.",
            "Leave --lora out, or write the tokens as plain text.",
        )
    if start.found.base is not None:
        raise CheckpointError(
            f"--from_pretrained {config.finetune.from_pretrained} holds adapters itself, and --lora would put others upon them.",
            "Export it merged first, with `llmforge export --format safetensors`, or leave --lora out.",
        )
    if isinstance(config.training, FinetuneTrainingArguments):
        config.training.adapts = True
    trained_parameters(config, config.base)  # refuses layers that are not there


def _choose_block_size(config: FinetuneConfig, start: Start) -> None:
    positions = int(config.base.max_position_embeddings)
    if config.data.dataset_dir is not None:
        config.data.block_size = load_prepared(config.data.dataset_dir).block_size
    elif "block_size" not in config.given:
        # 1,024 at most; positions past the rows of its training were never trained, though the model has them.
        config.data.block_size = min(config.data.block_size, start.found.context)
    if config.data.block_size > positions:
        raise ConfigError(
            f"--block_size {config.data.block_size} is longer than the model's {positions} positions.", "Give a shorter one."
        )


def prepare_finetune(config: FinetuneConfig) -> tuple[Start, PreparedDataset]:
    """Load the model and prepare its data, or find it prepared; a dry run and ``--eval_only`` end here.

    Raises:
        LlmforgeError: As `check_finetune` and `prepare_dataset`.
        SystemExit: After a dry run, or an evaluation alone.
    """
    start, rows = check_finetune(config)

    def make() -> str:
        return str(_prepare(config, start, rows).path)

    data = load_prepared(rank_zero_first()(make))
    config.data.block_size = data.block_size
    if not data.is_for(start.tokenizer, whole=True):
        raise DataError(
            f"--dataset_dir {data.path} was tokenized with another tokenizer than that of the model.",
            "Prepare it again with --tokenizer and the model's folder.",
        )
    if rows is not None:
        config.generation = rows.task.generation_arguments(config.generation, config.given)
        if "prompts" not in config.given:
            _sample_rows(config, rows, data)
        else:
            asked: list[str] = [rows.task.ask(prompt) for prompt in config.generation.prompts]
            config.generation = dataclasses.replace(config.generation, prompts=asked)
    choose_batch(config, data)
    if config.dry_run:
        announce(config, data)
        raise SystemExit(0)
    if config.run.eval_only:
        evaluate_run(config, data) if rows is None else score_rows(config, data)
        raise SystemExit(0)
    return start, data


def _sample_rows(config: FinetuneConfig, rows: TaskRows, data: PreparedDataset) -> None:
    """Let evaluations answer a few held-out rows, in one way and not at length, unless it is said otherwise."""
    most = int(config.base.max_position_embeddings) - 1
    prompts = [prompt for prompt in rows.prompts(_SAMPLES) if len(encode_prompt(prompt, data.tokenizer)) <= most]
    changes: dict[str, Any] = {"prompts": prompts}
    if "strategies" not in config.given:
        changes["strategies"] = []
    if "max_new_tokens" not in config.given | set(rows.task.generation):
        changes["max_new_tokens"] = min(_SAMPLE_TOKENS, config.generation.max_new_tokens)
    config.generation = dataclasses.replace(config.generation, **changes)


def _prepare(config: FinetuneConfig, start: Start, rows: TaskRows | None) -> PreparedDataset:
    if config.data.dataset_dir is not None:
        return load_prepared(config.data.dataset_dir)
    tokenizer = _tokenizer_folder(start.tokenizer)
    if rows is None:
        return prepare_dataset(config.data, TokenizerArguments(tokenizer=str(tokenizer)))
    splits, dropped = split_task_rows(rows, config.data)
    size, only = config.data.block_size, config.finetune.completion_only
    if "block_size" not in config.given:
        size = fitting_size(splits, rows.task, tokenizer, int(config.base.max_position_embeddings))
    return prepare_task(splits, rows.task, tokenizer, size, only, dropped)


def _tokenizer_folder(tokenizer: Any) -> Path:
    """A folder in the cache with `tokenizer`, padding and added tokens included."""
    root = cache_root() / "tokenizers"
    settings = [
        tokenizer.backend_tokenizer.to_str(),
        str(tokenizer.special_tokens_map),
        str(getattr(tokenizer, "chat_template", "")),
    ]
    folder = root / digest(settings)
    if not folder.exists():
        with new_folder(folder) as staging:
            tokenizer.save_pretrained(staging)
    return folder


def finetune_model(config: FinetuneConfig) -> RunResult:
    """Fine-tune the model that `config` describes, from its folder to ``final/``.

    Raises:
        LlmforgeError: One of its kinds, by what went wrong; see the stages.
    """
    start, data = prepare_finetune(config)
    with open_run(config, data) as run:
        if start.task is not None and run.is_main:
            start.task.save(run.path)

        def build() -> ForgeTrainer:
            model = tuned_model(start, config)
            trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
            logger.info("training %s of %s parameters", f"{trained:,}", f"{shape_size(config, data):,}")
            return build_trainer(
                *(model, data, config.training, config.generation, config.run, run.path, config.data.max_eval_samples),
                *(run.callbacks, config.checkpoint),
            )

        return finish(train_fitting(build, config, run), run, config, data, start)


def shape_size(config: FinetuneConfig, data: PreparedDataset) -> int:
    """Parameters of the model itself, adapters left out."""
    from llmforge.models import count_parameters

    return count_parameters(shape_of(config, data.card["tokenizer"]["vocab_size"]))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge finetune`."""
    finetune_model(parse_finetune(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
