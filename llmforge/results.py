"""What comes out of a run: `final/`, its figures, its samples, its model card."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerState

from llmforge.callbacks.divergence import refuse_non_finite
from llmforge.callbacks.samples import sample_line
from llmforge.configs.finetune import FinetuneConfig
from llmforge.configs.run import RunConfig
from llmforge.data.prepared import PreparedDataset
from llmforge.errors import TROUBLESHOOTING
from llmforge.runtime.devices import format_bytes, peak_memory
from llmforge.runtime.logs import logger, printable, show
from llmforge.runtime.run_folder import FINAL, REPORT, SAMPLES, RunFolder
from llmforge.sampling.completions import complete
from llmforge.sharding import whole_model
from llmforge.storage.files import new_folder
from llmforge.storage.records import append_json_line, write_json, write_text
from llmforge.trainer import ForgeTrainer
from llmforge.tuning.start import Start, model_card, write_final

#: By how much of itself the last validation loss is above the best where what came after that is called for nothing.
_WORSE = 0.01


@dataclass
class RunResult:
    """What came out of a run.

    Attributes:
        folder: The run's folder.
        final: The folder for `from_pretrained`.
        chosen: ``best`` (by validation loss, or what ``--metric_for_best_model`` says) or ``last``.
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


def finish(
    trainer: ForgeTrainer, run: RunFolder, config: RunConfig, data: PreparedDataset, start: Start | None = None
) -> RunResult:
    """Save ``final/``, score it on the test split, sample from it, and say how it went.

    The trainer holds the best model by validation loss where there was an evaluation, else the last.

    Args:
        trainer: When it has trained.
        run: From `open_run`.
        config: Of the run.
        data: That it was trained on.
        start: What a fine-tuning began with.
    """
    state = trainer.state
    refuse_non_finite(trainer.model, state.global_step)
    best = bool(trainer.args.load_best_model_at_end and state.best_model_checkpoint)
    step = int(state.best_global_step or state.global_step) if best else state.global_step
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    result = RunResult(run.path, run.path / FINAL, "best" if best else "last", step)
    result.start = metrics_of(evaluations[0]) if evaluations else {}
    result.end = next((metrics_of(entry) for entry in reversed(evaluations) if entry["step"] == step), {})
    test = data.rows("test", config.data.max_eval_samples)
    if test is not None:
        result.test = metrics_of(trainer.predict(test).metrics, "test_")
    trained = whole_model(trainer.model, run.is_main)
    if run.is_main:
        parameters = trained.num_parameters()
        with new_folder(result.final, replace=True) as staging:
            # In the published layout, which other programs read; checkpoints keep the model's own names.
            if start is not None and isinstance(config, FinetuneConfig):
                model = write_final(trained, start, config, staging)
                about = model_card(start, config, parameters)
            else:
                model = trained
                model.save_pretrained(staging)
                data.tokenizer.save_pretrained(staging)
                about = _from_scratch(model, parameters)
            write_text(staging / "README.md", _model_card(about, run, config, data, result))
        run.write_record(parameters=parameters)
        if start is not None:  # rows as short as the examples take nothing from what the base knew
            run.write_record(context=max(start.found.context, config.data.block_size))
        _write_results(model, trainer.args.seed, run, config, data, result)
        show(_summary(result, run))
        logger.info(
            "peak memory %s; %s",
            format_bytes(peak_memory(trainer.args.use_cpu)),
            next_commands(result, config, state, start is not None and start.task is not None),
        )
    return result


def metrics_of(entry: dict[str, float], prefix: str = "eval_") -> dict[str, float]:
    """The figures of an evaluation, as records and cards have them."""
    wanted = ("loss", "perplexity", "bits_per_byte", "accuracy", "tokens", "bytes")
    return {name: entry[prefix + name] for name in wanted if prefix + name in entry}


def _write_results(model: Any, seed: int, run: RunFolder, config: RunConfig, data: PreparedDataset, result: RunResult) -> None:
    if config.generation.prompts:
        texts = complete(model, data.tokenizer, config.generation.prompts, config.generation, seed=seed)
        result.samples = list(zip(config.generation.prompts, texts, strict=True))
    for prompt, text in result.samples:
        line = sample_line(result.step, prompt, config.generation.strategy, config.generation, text, final=True)
        append_json_line(run.path / SAMPLES, line)
    data.tokenizer.save_pretrained(run.path / "tokenizer")
    if result.test:
        counted = _rows_counted(config, data, "test")
        write_json(run.path / "eval.json", {"split": "test", "step": result.step, **counted, **result.test})
    final = {"which": result.chosen, "step": result.step, "validation": result.end, "test": result.test}
    run.write_record(final=final)


def _rows_counted(config: RunConfig, data: PreparedDataset, split: str) -> dict[str, int]:
    """How many rows of a split its figures are from, and how many it has."""
    total = int(data.card["splits"][split]["rows"])
    return {"rows": min(total, config.data.max_eval_samples or total), "rows_of": total}


def _from_scratch(model: Any, parameters: int) -> tuple[str, str]:
    """How the model came about, in a sentence, and how it is loaded, in Python."""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("final")',
        'tokenizer = AutoTokenizer.from_pretrained("final")',
    ]
    sentence = f"A {model.config.model_type} model of {parameters:,} parameters, trained from scratch with llmforge"
    return sentence, "\n".join(lines)


def _model_card(about: tuple[str, str], run: RunFolder, config: RunConfig, data: PreparedDataset, result: RunResult) -> str:
    train = data.card["splits"]["train"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {run.path.name}",
        "",
        f"{about[0]} on {train['documents']:,} documents ({train['bytes']:,} bytes, {train['tokens']:,} tokens); "
        f"this is the {result.chosen} checkpoint, of step {result.step:,}.",
        "",
        "```python",
        about[1],
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
            counted = _rows_counted(config, data, name)
            part = "" if counted["rows"] == counted["rows_of"] else f" ({counted['rows']:,} of {counted['rows_of']:,} rows)"
            lines.append(f"| {name}{part} | {figures} |")
    lines += ["", "It has seen nothing but its corpus; what it writes is no statement of fact.", ""]
    return "\n".join(lines)


def _summary(result: RunResult, run: RunFolder) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Validation, {result.chosen} model of step {result.step:,}", title_justify="left")
    for column in ("", "start", "end", *(["test split"] if result.test else [])):
        table.add_column(column, justify="left" if not column else "right")
    figures = (result.start, result.end, *([result.test] if result.test else []))
    for key, label in (
        ("perplexity", "perplexity"),
        ("bits_per_byte", "bits per byte"),
        ("loss", "loss"),
        ("accuracy", "accuracy"),
    ):
        if key in result.end or key in result.test:
            table.add_row(label, *(f"{values[key]:,.3f}" if key in values else "" for values in figures))
    parts: list[Any] = [table] if table.rows else []
    for prompt, text in result.samples:
        parts.append(Panel(Text.assemble((printable(prompt), "bold"), printable(text)), title="sample", title_align="left"))
    parts.append(Text(f"final model   {result.final}\nloss picture  {run.path / 'plots' / 'loss.png'}\nall it wrote  {run.path}"))
    return Group(*parts)


def next_commands(result: RunResult, config: RunConfig, state: TrainerState, task: bool = False) -> str:
    """What can be done with the model, and what would make a better one.

    Args:
        result: Of the training.
        config: Of the run.
        state: At its end.
        task: Whether it is one for the rows of a task, which are not lying around to judge it by.
    """
    path, name = shlex.quote(str(result.folder)), shlex.quote(f"{result.folder.resolve().name}.gguf")
    lines = {
        "use it": f"llmforge generate --model {path} {'--interactive' if task else '--prompt TEXT'}",
        "judge it": f"llmforge evaluate --model {path}" if (result.end or result.test) and not task else "",
        "take it away": f"llmforge export --model {path} --format gguf --output {name}",
        "the report": f"{result.folder / REPORT}, in a browser" if config.run.html_report else "",
        "the curves": f"tensorboard --logdir {shlex.quote(str(result.folder.parent))} --port 6006"
        if "tensorboard" in config.training.report_to
        else "",
    }
    epochs = config.training.num_train_epochs
    judged = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    if judged and result.step < state.global_step and judged[-1] > result.end.get("loss", math.inf) * (1 + _WORSE):
        lines["less is more"] = (
            f"after step {result.step:,} of {state.global_step:,} validation became worse ({TROUBLESHOOTING}#overfitting)"
        )
    elif config.deadline.deadline and config.training.max_steps <= 0 and (state.epoch or 0) > epochs - 0.01:
        lines["more text"] = f"does more than more time: this was read {epochs:g} times, as --num_train_epochs says"
    elif config.deadline.deadline is not None:
        lines["more time"] = f"add --output_dir {path} --resume to the same command, with a longer --deadline"
    else:
        lines["more steps"] = f"add --output_dir {path} --resume --max_steps N to the same command"
    return "next:\n" + "\n".join(f"  {what:<12}  {how}" for what, how in lines.items() if how)
