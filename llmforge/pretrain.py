"""llmforge pretrain --preset gpt2-124m --corpus DIR

Train a GPT-2 or GPT-NeoX model from scratch on your own text. The stages are functions, so
that a recipe script can show them; `pretrain_model` is all of them in a row.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import transformers

from llmforge.callbacks.run_log import METRICS
from llmforge.checkpoints.resume import find_checkpoint
from llmforge.configs.data import DataArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.run import PretrainConfig, RunArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments, deferred_process_group
from llmforge.data.prepare import PreparedDataset, load_prepared, prepare_dataset
from llmforge.data.sources import check_corpus
from llmforge.errors import EXIT_PREEMPTED, ConfigError, LlmforgeError, StorageError
from llmforge.generate import complete
from llmforge.models import build_config, build_model, check_block_size, count_parameters, embedding_rows, get_preset
from llmforge.parsing import ForgeParser
from llmforge.runtime.commands import run_command
from llmforge.runtime.devices import format_bytes, peak_memory, probe_device
from llmforge.runtime.launch import rank, rank_zero_first, world_size
from llmforge.runtime.logs import add_log_file, logger, printable, remove_log_file, set_up_logging, show
from llmforge.runtime.precision import apply_precision
from llmforge.runtime.run_folder import RUN_RECORD, RUNS_ROOT, RunFolder, refuse_used_folder, reserve
from llmforge.storage import append_json_line, read_json, read_json_lines, write_json, write_text
from llmforge.trainer import ForgeTrainer, build_trainer, without_validation

FINAL = "final"
#: fp32 weights, gradients and the two moments of AdamW, in bytes a parameter.
_STATE_BYTES = 16
_PATH_FIELDS = ("corpus", "dataset_dir", "tokenizer")


@dataclass
class PretrainResult:
    """What came out of a run.

    Attributes:
        folder: The run's folder.
        final: The folder for `from_pretrained`.
        chosen: ``best`` (lowest validation loss) or ``last``.
        step: The step that `final` holds.
        start: Validation metrics before the first step; empty without an evaluation.
        end: Validation metrics of `final`; empty without an evaluation.
        test: Test metrics of `final`; empty without a test split.
        samples: Prompt and completion pairs from `final`.
    """

    folder: Path
    final: Path
    chosen: str
    step: int
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[str, str]] = field(default_factory=list)


def parse_pretrain(argv: Sequence[str] | None = None, recipe: str | None = None) -> PretrainConfig:
    """The configuration of a pretraining run from the command line.

    Args:
        argv: Arguments, by default those of the process.
        recipe: A recipe's ``__file__``: its ``configs/<recipe>/`` is where ``--config NAME`` looks,
            ``demo`` is what it runs by default, and its name is the run's.

    Raises:
        ConfigError, DataError, CheckpointError: Whatever can be refused before data is read.
    """
    set_up_logging()
    transformers.utils.logging.disable_progress_bar()  # the bars of loading and saving; Trainer's own stay

    script = Path(recipe) if recipe else None
    classes = [ModelArguments, TokenizerArguments, DataArguments, ForgeTrainingArguments, GenerationArguments, RunArguments]
    parser = ForgeParser(classes, dry_run=True, prog=f"python {script.name}" if script else "llmforge pretrain")
    folder = script.parent / "configs" / script.stem if script else None
    with deferred_process_group():
        parsed = parser.parse(argv, folder, "demo" if script else None)
    model = parsed.get(ModelArguments)
    config = PretrainConfig(
        training=parsed.get(ForgeTrainingArguments),
        model=model,
        tokenizer=parsed.get(TokenizerArguments),
        data=parsed.get(DataArguments),
        generation=parsed.get(GenerationArguments),
        run=parsed.get(RunArguments),
        name=f"{script.stem if script else 'pretrain'}-{parsed.config_path.stem if parsed.config_path else model.preset}",
        dry_run=parsed.dry_run,
    )
    if parsed.config_path is not None:
        _resolve_paths(config, parsed.config_path.parent)
    check_config(config, named_folder="output_dir" in parsed.changed)
    return config


def _resolve_paths(config: PretrainConfig, folder: Path) -> None:
    """A relative path that is not found from here is taken from the YAML file's folder."""
    for arguments in (config.data, config.tokenizer):
        for name in _PATH_FIELDS:
            value = getattr(arguments, name, None)
            if value and not Path(value).expanduser().exists() and (folder / value).exists():
                setattr(arguments, name, os.path.relpath(folder / value))


def check_config(config: PretrainConfig, named_folder: bool = True) -> None:
    """Refuse what cannot work before anything expensive starts, and fill in what follows from the rest.

    Args:
        config: Changed in place: the vocabulary from the preset, the output folder from ``--resume PATH``,
            the precision, and no evaluation where the validation split has no share.
        named_folder: Whether `training.output_dir` was chosen by the user; otherwise a new one is made.

    Raises:
        ConfigError: Settings that contradict each other, or a folder that holds another run.
        DataError: No corpus where one is needed.
        CheckpointError: ``--resume`` names a checkpoint that cannot be used.
    """
    preset = get_preset(config.model.preset)
    if config.tokenizer.vocab_size is None:
        config.tokenizer.vocab_size = preset.vocab_size
    sketch = build_config(config.model, embedding_rows(config.tokenizer.vocab_size))
    if config.data.dataset_dir is not None:
        prepared = load_prepared(config.data.dataset_dir)
        block_size, validates = prepared.block_size, "validation" in prepared.card["splits"]
        if block_size != config.data.block_size:
            logger.info("block size %d: that of the prepared dataset", block_size)
            config.data.block_size = block_size
    else:
        check_corpus(config.data)
        validates = config.data.ratios()[1] > 0
    if not validates:
        without_validation(config.training, config.run)
    check_block_size(sketch, config.data.block_size)
    apply_precision(config.training)
    resume = config.run.resume
    if resume is None:
        if named_folder:
            folder = Path(config.training.output_dir or ".")
            # Asked once for all processes: the first may have begun to write when another one asks.
            rank_zero_first()(lambda: refuse_used_folder(folder))
        else:
            config.training.output_dir = None
        return
    if not named_folder:
        if resume == "newest" or not Path(resume).is_dir():
            raise ConfigError(f"--resume {resume} does not say which run.", "Give --output_dir with the run's folder.")
        config.training.output_dir = str(Path(resume).resolve().parent)
    find_checkpoint(Path(config.training.output_dir or "."), resume)


def prepare_run(config: PretrainConfig) -> PreparedDataset:
    """Prepare the data of a run, or find it prepared; with `dry_run`, describe the run and stop.

    On several processes the first one of each machine prepares, before a process group is
    started, and the others wait for it.

    Raises:
        DataError, ConfigError, StorageError: As `prepare_dataset`.
        SystemExit: After a dry run.
    """

    def make() -> str:
        return str(prepare_dataset(config.data, config.tokenizer).path)

    data = load_prepared(rank_zero_first()(make))
    if config.dry_run:
        show(describe(config, data))
        raise SystemExit(0)
    return data


@contextlib.contextmanager
def open_run(config: PretrainConfig, data: PreparedDataset) -> Iterator[RunFolder]:
    """The run's folder, with its records: ``run.json`` at the start, ``exit.json`` at any end.

    Sets `config.training.output_dir` to it, finds the checkpoint of ``--resume``, and turns
    running out of memory or disk into one clear line.

    Raises:
        CheckpointError: Nothing usable to resume from.
        ConfigError: The run to resume was trained on other data or is another model; out of memory.
    """
    first = rank_zero_first()
    training = config.training
    if training.output_dir is None:
        training.output_dir = first(lambda: str(reserve(config.name)))
    path = Path(training.output_dir)
    path.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoint(path, config.run.resume) if config.run.resume else None
    run = RunFolder(path, is_main=rank() == 0, checkpoint=checkpoint)
    _refuse_drift(run, config, data)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(path / "logs")
    training.run_name = training.run_name or path.name
    handler = add_log_file(path / "run.log")
    try:
        if config.run.resume:
            training.eval_on_start = training.eval_on_start and checkpoint is None
            logger.info("resuming from %s", checkpoint.name if checkpoint else "step 0: no checkpoint was saved yet")
        show(describe(config, data))
        run.write_record(
            name=path.name,
            config=_plain(config),
            data={"path": str(data.path), "fingerprint": data.fingerprint, "splits": data.card["splits"]},
            tokenizer=data.card["tokenizer"],
            processes=world_size(),
        )
        yield run
    except KeyboardInterrupt:
        _close(run, EXIT_PREEMPTED, "interrupted")
        logger.warning("interrupted; go on with --output_dir %s --resume", path)
        raise
    except LlmforgeError as error:
        _close(run, error.exit_code, str(error))
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            _close(run, 1, repr(error))
            raise
        _close(run, StorageError.exit_code, "disk full")
        raise StorageError(f"The disk of {path} is full.", "Free some space and go on with --resume.") from error
    except BaseException as error:
        if type(error).__name__ == "OutOfMemoryError":
            _close(run, ConfigError.exit_code, "out of device memory")
            raise ConfigError(
                f"The device ran out of memory with --per_device_train_batch_size {training.per_device_train_batch_size}.",
                "Halve it and double --gradient_accumulation_steps, or add --activation_checkpointing.",
            ) from error
        _close(run, 1, repr(error))
        raise
    else:
        _close(run, 0, "finished")
    finally:
        remove_log_file(handler)
        first.clear()


def _close(run: RunFolder, code: int, reason: str) -> None:
    steps = [line["step"] for line in read_json_lines(run.path / METRICS) if "step" in line]
    run.write_exit(code, reason, steps[-1] if steps else None)


def _plain(config: PretrainConfig) -> dict[str, Any]:
    parts = {name: asdict(getattr(config, name)) for name in ("model", "tokenizer", "data", "generation", "run")}
    return {**parts, "training": config.training.to_dict()}


def _refuse_drift(run: RunFolder, config: PretrainConfig, data: PreparedDataset) -> None:
    """A resumed run must be the same model on the same rows."""
    if run.checkpoint is None or not (run.path / RUN_RECORD).exists():
        return
    record = read_json(run.path / RUN_RECORD)
    if record["data"]["fingerprint"] != data.fingerprint:
        raise ConfigError(
            f"{run.path} was trained on other rows ({record['data']['path']}) than the ones given ({data.path}).",
            "Resume with the same corpus and settings, or start a new run.",
        )
    then, now = record["config"]["model"], asdict(config.model)
    for name, value in now.items():
        if then.get(name) != value:
            raise ConfigError(f"{run.path} has --{name} {then.get(name)}, not {value}.", "Resume with the same model.")


def plan_steps(args: ForgeTrainingArguments, rows: int) -> tuple[int, int]:
    """Rows of one optimizer step, and steps of the whole run."""
    step_rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size()
    if args.max_steps > 0:
        return step_rows, args.max_steps
    return step_rows, math.ceil(args.num_train_epochs * math.ceil(rows / step_rows))


def describe(config: PretrainConfig, data: PreparedDataset) -> Any:
    """What will run and on what, as a rich table."""
    from rich.table import Table

    vocabulary = data.card["tokenizer"]["vocab_size"]
    model_config = build_config(config.model, embedding_rows(vocabulary))
    parameters = count_parameters(model_config)
    splits = data.card["splits"]
    step_rows, steps = plan_steps(config.training, data.card["splits"]["train"]["rows"])
    precision = "bf16" if config.training.bf16 else "fp16" if config.training.fp16 else "fp32"
    device = probe_device()
    state = parameters * _STATE_BYTES
    room = "" if state < 0.8 * device.memory else " — [bold red]this will hardly fit[/]"
    train = splits["train"]
    documents = ", ".join(f"{name} {split['documents']:,}" for name, split in splits.items())
    table = Table(show_header=False, title="Run", title_justify="left", box=None, pad_edge=False)
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    rows = {
        "device": f"{device}, {precision}{processes}",
        "model": f"{config.model.preset}: {parameters:,} parameters at {vocabulary:,} vocabulary entries",
        "memory": f"{format_bytes(state)} for weights, gradients and AdamW, activations apart{room}",
        "data": f"documents: {documents}; {train['tokens']:,} training tokens in {train['rows']:,} rows of {data.block_size}",
        "steps": f"{steps:,} of {step_rows * data.block_size:,} tokens ({step_rows} rows)",
        "folder": config.training.output_dir or f"{RUNS_ROOT}/{config.name}-NNN",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def finish(trainer: ForgeTrainer, run: RunFolder, config: PretrainConfig, data: PreparedDataset) -> PretrainResult:
    """Save ``final/``, score it on the test split, sample from it, and say how it went.

    The trainer holds the best model by validation loss where there was an evaluation, else the last.
    """
    state = trainer.state
    best = bool(trainer.args.load_best_model_at_end and state.best_model_checkpoint)
    step = int(state.best_global_step or state.global_step) if best else state.global_step
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    result = PretrainResult(run.path, run.path / FINAL, "best" if best else "last", step)
    result.start = _metrics(evaluations[0]) if evaluations else {}
    result.end = next((_metrics(entry) for entry in reversed(evaluations) if entry["step"] == step), {})
    test = data.rows("test", config.data.max_eval_samples)
    if test is not None:
        result.test = _metrics(trainer.predict(test).metrics, "test_")
    if run.is_main:
        # In the published layout, which other programs read; checkpoints keep the model's own names.
        trainer.model.save_pretrained(result.final)
        data.tokenizer.save_pretrained(result.final)
        _write_results(trainer, run, config, data, result)
        show(_summary(result, run))
        logger.info("peak memory %s; %s", format_bytes(peak_memory()), _next_commands(run.path))
    return result


def _metrics(entry: dict[str, float], prefix: str = "eval_") -> dict[str, float]:
    wanted = ("loss", "perplexity", "bits_per_byte", "accuracy", "tokens", "bytes")
    return {name: entry[prefix + name] for name in wanted if prefix + name in entry}


def _write_results(
    trainer: ForgeTrainer, run: RunFolder, config: PretrainConfig, data: PreparedDataset, result: PretrainResult
) -> None:
    if config.generation.prompts:
        texts = complete(trainer.model, data.tokenizer, config.generation.prompts, config.generation, seed=trainer.args.seed)
        result.samples = list(zip(config.generation.prompts, texts, strict=True))
    settings = {name: value for name, value in asdict(config.generation).items() if name != "prompts"}
    for prompt, text in result.samples:
        append_json_line(
            run.path / "samples.jsonl", {"step": result.step, "final": True, "prompt": prompt, "settings": settings, "text": text}
        )
    data.tokenizer.save_pretrained(run.path / "tokenizer")
    if result.test:
        write_json(run.path / "eval.json", {"split": "test", "step": result.step, **result.test})
    final = {"which": result.chosen, "step": result.step, "validation": result.end, "test": result.test}
    run.write_record(parameters=trainer.model.num_parameters(), final=final)
    write_text(result.final / "README.md", _model_card(trainer, run, config, data, result))


def _model_card(
    trainer: ForgeTrainer, run: RunFolder, config: PretrainConfig, data: PreparedDataset, result: PretrainResult
) -> str:
    train = data.card["splits"]["train"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {run.path.name}",
        "",
        f"A {trainer.model.config.model_type} model of {trainer.model.num_parameters():,} parameters, trained from scratch with "
        f"llmforge on {train['documents']:,} documents ({train['bytes']:,} bytes, {train['tokens']:,} tokens); "
        f"this is the {result.chosen} checkpoint, of step {result.step:,}.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("final")',
        'tokenizer = AutoTokenizer.from_pretrained("final")',
        "```",
        "",
        "Every document started with `<|endoftext|>` in training: give a prompt the same start.",
        "",
        "| split | loss | perplexity | bits per byte | accuracy |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in (("validation", result.end), ("test", result.test)):
        if values:
            figures = " | ".join(f"{values[key]:.4f}" for key in ("loss", "perplexity", "bits_per_byte", "accuracy"))
            lines.append(f"| {name} | {figures} |")
    lines += ["", "It has seen nothing but its corpus; what it writes is no statement of fact.", ""]
    return "\n".join(lines)


def _summary(result: PretrainResult, run: RunFolder) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Validation, {result.chosen} model of step {result.step:,}", title_justify="left")
    for column in ("", "start", "end"):
        table.add_column(column, justify="left" if not column else "right")
    for key, label in (
        ("perplexity", "perplexity"),
        ("bits_per_byte", "bits per byte"),
        ("loss", "loss"),
        ("accuracy", "accuracy"),
    ):
        if key in result.end:
            before = f"{result.start[key]:,.3f}" if key in result.start else ""
            table.add_row(label, before, f"{result.end[key]:,.3f}")
    parts: list[Any] = [table] if result.end else []
    for prompt, text in result.samples:
        parts.append(Panel(Text.assemble((printable(prompt), "bold"), printable(text)), title="sample", title_align="left"))
    parts.append(Text(f"final model   {result.final}\nloss picture  {run.path / 'plots' / 'loss.png'}\nall it wrote  {run.path}"))
    return Group(*parts)


def _next_commands(path: Path) -> str:
    return (
        "next:\n"
        "  your own code   accelerate launch recipes/pretrain_go.py --config cpu --corpus DIR\n"
        "  any other text  llmforge pretrain --preset gpt2-10m --corpus DIR\n"
        f"  the curves      tensorboard --logdir {path.parent} --port 6006\n"
        f"  more steps      add --output_dir {path} --resume --max_steps N to the same command"
    )


def pretrain_model(config: PretrainConfig) -> PretrainResult:
    """Train the model that `config` describes, from its corpus to ``final/``.

    Raises:
        LlmforgeError: One of its kinds, by what went wrong; see the stages.
    """
    data = prepare_run(config)
    with open_run(config, data) as run:
        model = build_model(config.model, data.tokenizer, data.block_size, seed=config.training.seed)
        trainer = build_trainer(
            model, data, config.training, config.generation, config.run, run.path, config.data.max_eval_samples
        )
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        return finish(trainer, run, config, data)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge pretrain`."""
    pretrain_model(parse_pretrain(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
