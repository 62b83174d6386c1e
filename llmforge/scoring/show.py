"""Evaluations and comparisons as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.recall import held_out, text_of_run
from llmforge.runtime.logs import console, logger, printable
from llmforge.scoring.figures import Figures
from llmforge.scoring.matching import AnswerFigures
from llmforge.scoring.pairs import SWAPS, Difference
from llmforge.scoring.result import Comparison, Evaluation
from llmforge.scoring.samples import Sample

#: What is shown with its interval: name, and attribute of `Figures`.
_INTERVALS = {"perplexity": "perplexity", "bits per byte": "bits_per_byte", "accuracy": "accuracy"}
#: From this p on a difference may well be chance.
_CHANCE = 0.05
#: Lines of a completion that are shown, blank ones left out.
_LINES = 8
#: What differences are called, with what one is good for: -1 where less is better.
_DIFFERENCES = {
    "bits_per_byte": ("bits a byte", -1),
    "exact_match": ("exact match", 1),
    "in_format": ("in format", 1),
    "field_accuracy": ("field accuracy", 1),
    "rougeL": ("ROUGE-L", 1),
}


def _table(title: str, first: str, columns: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left")
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _row(table: Any, name: str, *cells: str) -> None:
    from rich.text import Text

    table.add_row(Text(printable(name)), *cells)


def _say(*lines: str) -> None:
    for line in lines:
        console().print(printable(line), highlight=False, markup=False, soft_wrap=True)


def show_evaluation(evaluation: Evaluation) -> None:
    """Tables for people, and samples."""
    settings, total, answers = evaluation.settings, evaluation.total, evaluation.answers
    context = f"context {settings['block_size']}" + (f", stride {settings['stride']}" if settings["stride"] else "")
    columns = ["tokens", "perplexity", "bits/byte", "zstd", "accuracy", "top 5"]
    table = _table(f"{evaluation.model} on {evaluation.data}; {context}", "source" if answers is None else "answers", columns)
    for name, figures in {**(evaluation.sources if len(evaluation.sources) > 1 else {}), "all": total}.items():
        _row(
            table,
            name,
            f"{figures.tokens:,}",
            f"{figures.perplexity:,.2f}",
            f"{figures.bits_per_byte:.3f}",
            f"{figures.zstd_bits_per_byte:.3f}",
            f"{figures.accuracy:.1%}",
            f"{figures.top5_accuracy:.1%}",
        )
    console().print(table)
    told = [f"{name} {getattr(total, key):.4g}{_interval(total, key)}" for name, key in _INTERVALS.items()]
    what = "documents" if answers is None else "rows, of which what is to be answered counts"
    _say(
        ", ".join(told),
        f"loss {total.loss:.4f} nats a token; {total.documents:,} {what}, {total.bytes:,} bytes",
        *([f"in brackets {settings['interval_method']} of {total.resampled}"] if total.intervals else []),
        "zstd: bits a byte that zstd -19 needs for the same bytes; less is better",
    )
    _warn_trained_on([evaluation])
    if answers is not None:
        show_answers(answers)
    show_lm_eval(evaluation.lm_eval)
    show_samples({"": evaluation.samples})


def _warn_trained_on(evaluations: Sequence[Evaluation]) -> None:
    """Say which models have seen the text before: how they do on other text like it is not what the figures tell."""
    for one in evaluations:
        if seen := one.settings.get("trained_on"):
            logger.warning(
                "%s was trained on text of %s, so the figures flatter it. %s",
                one.model,
                ", ".join(seen),
                _unseen(one),
            )


def _unseen(one: Evaluation) -> str:
    if one.answers is not None:
        return "Give rows that it has not seen."
    data = text_of_run(one.model)
    if data is not None and held_out(data):
        return "With --model alone a held-out split of its run is evaluated."
    return "Give text that it has not seen."


def _interval(figures: Figures | AnswerFigures, name: str, form: str = ".4g") -> str:
    low_high = figures.intervals.get(name)
    return f" [{low_high[0]:{form}}, {low_high[1]:{form}}]" if low_high else ""


def show_answers(answers: AnswerFigures) -> None:
    """How good the answers are, a figure a line."""
    shares = {"exact match": "exact_match", "in the task's format": "in_format", "field accuracy": "field_accuracy"}
    table = _table(f"{answers.rows:,} answers, {answers.settings['strategy']}", "", ["value", "95 %"])
    for label, name in shares.items():
        value = getattr(answers, name)
        if value is not None:
            _row(table, label, f"{value:.1%}", _interval(answers, name, ".1%").strip(" []"))
    for name, value in answers.fields.items() if len(answers.fields) > 1 else ():
        _row(table, f"  {name}", f"{value:.1%}", "")
    for label, name in {"BLEU": "bleu", "ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}.items():
        form = ".1f" if name == "bleu" else ".3f"
        _row(table, label, f"{getattr(answers, name):{form}}", _interval(answers, name, form).strip(" []"))
    console().print(table)
    _say("ended by " + ", ".join(f"{reason}: {count:,}" for reason, count in answers.ended.items()))


def show_samples(samples: Mapping[str, list[Sample]]) -> None:
    """Prompts with what came of them.

    Args:
        samples: By model; where there are several, they have the same prompts.
    """
    from rich.panel import Panel
    from rich.text import Text

    for columns in zip(*samples.values(), strict=True):
        text = Text.assemble((printable(columns[0].prompt), "bold"))
        if columns[0].reference:
            text.append(f"\n\nreally: {printable(columns[0].reference.strip())}", "dim")
        for model, sample in zip(samples, columns, strict=True):
            for strategy, completion in sample.completions.items():
                text.append(f"\n\n{printable(f'{model}, ' if model else '')}{strategy}: ", "cyan")
                text.append(_clipped(printable(completion.strip())))
        console().print(Panel(text, title="sample", title_align="left"))


def _clipped(text: str) -> str:
    """The first lines of a completion: one that repeats itself would push the figures off the screen. The records have it all."""
    lines = [line for line in text.split("\n") if line.strip()]
    more = len(lines) - _LINES
    return "\n".join(lines[:_LINES]) + (f"\n[… {more} more lines]" if more > 0 else "")


def show_lm_eval(found: Mapping[str, Mapping[str, Any]]) -> None:
    """What lm-eval found, a figure a line."""
    if not found:
        return
    table = _table("lm-eval", "task", ["metric", "value", "±"])
    for task, figures in found.items():
        for name, value in figures.items():
            if isinstance(value, float) and not name.startswith("stderr "):
                error = figures.get(f"stderr {name}")
                _row(table, task, name, f"{value:.4f}", f"{error:.4f}" if isinstance(error, float) else "")
    console().print(table)


def show_comparison(comparison: Comparison) -> None:
    """A row a model, then each difference from the first with its test, then samples side by side."""
    first, *others = comparison.evaluations
    answered = first.answers is not None
    fields = answered and first.answers is not None and first.answers.field_accuracy is not None
    columns = ["bits/byte", *(["exact"] if answered else [])]
    columns += [*(["fields", "format"] if fields else []), *(["BLEU", "ROUGE-L"] if answered else [])]
    table = _table(f"{len(comparison.evaluations)} models on {first.data}", "model", columns)
    for one in comparison.evaluations:
        cells = [f"{one.total.bits_per_byte:.3f}"]
        if one.answers is not None:
            cells.append(f"{one.answers.exact_match:.1%}")
            cells += [f"{value:.1%}" for value in (one.answers.field_accuracy, one.answers.in_format) if value is not None]
            cells += [f"{one.answers.bleu:.1f}", f"{one.answers.rougeL:.3f}"]
        _row(table, str(one.model), *cells)
    console().print(table)
    for other, found in zip(others, comparison.differences, strict=True):
        _say(*_verdicts(first.model, other.model, found))
    _say(f"p: paired permutation test, {SWAPS:,} swaps; in brackets {first.settings['interval_method']} of pairs")
    _warn_trained_on(comparison.evaluations)
    show_samples({str(one.model): one.samples for one in comparison.evaluations})


def _verdicts(first: Path, other: Path, found: Mapping[str, Difference]) -> list[str]:
    if not found:
        return [f"{other}: one document alone tells no difference from chance"]
    lines = []
    for name, one in found.items():
        label, good = _DIFFERENCES[name]
        form = ".3f" if name in ("bits_per_byte", "rougeL") else ".1%"
        value = f"{one.value:+{form}} {label} [{one.interval[0]:{form}}, {one.interval[1]:{form}}], p = {one.p_value:.2g}"
        verdict = "may be chance" if one.p_value >= _CHANCE else "better" if one.value * good > 0 else "worse"
        lines.append(f"  {value}: {verdict}")
    pairs = next(iter(found.values())).pairs
    return [f"{other} beside {first}, {pairs:,} pairs:", *lines]
