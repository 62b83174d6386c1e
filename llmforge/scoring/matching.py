"""Answers against their references: exact match, fields, BLEU and ROUGE.

BLEU is sacrebleu's and ROUGE that of rouge-score, which the metrics of the package evaluate call as well; those it fetches as
scripts from the hub, and these are here without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmforge.scoring.fields import answered, parse_answer, skeleton, squeezed
from llmforge.scoring.figures import drawn, ends_of
from llmforge.tasks.rows import Row
from llmforge.tasks.task import Task

#: Averages over rows.
ROUGE = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"[^\W_]+")


@dataclass
class AnswerFigures:
    """How good the answers to the rows of a task are; shares lie between 0 and 1, BLEU between 0 and 100.

    Attributes:
        rows: Answered.
        exact_match: Share of the answers that are their reference, white space aside.
        field_accuracy: Share of the fields that are as in the reference; None where the task has no fields.
        fields: The same for each field.
        in_format: Share of the answers that have the form of the task's completions; None where it has no fields.
        bleu: Of the whole, by sacrebleu.
        rouge1: Mean F-measure of single words, by rouge-score.
        rouge2: Of pairs of words.
        rougeL: Of the longest common sequence.
        ended: How many answers ended by what: ``end of text``, ``stop string``, ``length``, ``no room``.
        intervals: Low and high end by name, by a bootstrap over rows.
        bleu_signature: How sacrebleu counted.
        settings: What the answers were made with.
    """

    rows: int
    exact_match: float
    field_accuracy: float | None
    fields: dict[str, float]
    in_format: float | None
    bleu: float
    rouge1: float
    rouge2: float
    rougeL: float
    ended: dict[str, int] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    bleu_signature: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class AnswerScores:
    """What each answer scores; the figures are made of these, and two models are compared by them.

    Attributes:
        columns: By name, ``(rows,)`` each: ``exact_match``, ``in_format``, ``rouge1``, ``rouge2``, ``rougeL``, and of the
            fields ``right`` and ``asked``, how many there are.
        fields: By name, ``(rows,)`` each: whether the field is as in the reference, NaN where the reference has none.
        bleu: Counts for BLEU, ``(rows, 10)``: matches and totals of one to four words, words of answer and reference.
    """

    columns: dict[str, np.ndarray]
    fields: dict[str, np.ndarray]
    bleu: np.ndarray


def score_answers(task: Task, rows: Sequence[Row], answers: Sequence[str]) -> AnswerScores:
    """Score each answer.

    Args:
        task: That the rows are of.
        rows: With what answers them.
        answers: As the model wrote them.

    Raises:
        DataError: A row lacks what the task needs.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    bleu, rouge = BLEU(effective_order=True), RougeScorer(list(ROUGE), tokenizer=_Words())
    columns: dict[str, list[float]] = {name: [] for name in ("exact_match", "in_format", *ROUGE, "right", "asked")}
    fields: dict[str, list[float]] = {}
    counts = []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        reference = answered(task, task.pieces(row.values, row.where)[-1].text)
        columns["exact_match"].append(squeezed(answer) == squeezed(reference))
        right, whole = _fields_right(task, row, reference, answer)
        columns["in_format"].append(whole)
        for name, value in right.items():
            fields.setdefault(name, [np.nan] * number).append(value)
        for values in fields.values():
            values += [np.nan] * (number + 1 - len(values))
        own = [values[number] for values in fields.values() if not np.isnan(values[number])]
        columns["right"].append(sum(own))
        columns["asked"].append(len(own))
        for name, score in rouge.score(reference.strip(), answer.strip()).items():
            columns[name].append(score.fmeasure)
        found = bleu.sentence_score(answer.strip(), [reference.strip()])
        counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return AnswerScores(
        {name: np.array(values, dtype=np.float64) for name, values in columns.items()},
        {name: np.array(values) for name, values in fields.items()},
        np.array(counts, dtype=np.float64),
    )


class _Words:
    """Words in any script; of English text they are those of rouge-score, which knows no others."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def _fields_right(task: Task, row: Row, reference: str, answer: str) -> tuple[dict[str, float], bool]:
    """Whether each field of an answer is that of the reference, and whether the answer has the form of the whole."""
    if task.kind == "chat":
        return {}, False
    names, between = skeleton(task, row.values, row.where)
    wanted, found = parse_answer(reference, names, between)[0], parse_answer(answer, names, between)
    return {name: float(found[0].get(name) == value) for name, value in wanted.items()}, found[1]


def answer_figures(scores: AnswerScores, ended: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> AnswerFigures:
    """The figures of answers, with intervals by the bootstrap that `llmforge.scoring.figures` uses."""
    names = ("exact_match", *ROUGE)
    columns, rows = scores.columns, len(scores.bleu)
    table = np.column_stack([*(columns[name] for name in (*names, "in_format", "right", "asked")), np.ones(rows), scores.bleu])
    has_fields = bool(scores.fields)

    def of(sums: np.ndarray) -> dict[str, float]:
        *shares, in_format, right, asked, count = sums[: len(names) + 4].tolist()
        made = {name: share / count for name, share in zip(names, shares, strict=True)}
        if has_fields:
            made |= {"field_accuracy": right / asked if asked else math.nan, "in_format": in_format / count}
        return made | {"bleu": bleu_of(sums[len(names) + 4 :])}

    values = of(table.sum(0))
    return AnswerFigures(
        rows=rows,
        exact_match=values["exact_match"],
        field_accuracy=values.get("field_accuracy"),
        fields={name: float(np.nanmean(right)) for name, right in scores.fields.items()},
        in_format=values.get("in_format"),
        bleu=values["bleu"],
        **{name: values[name] for name in ROUGE},
        ended={reason: list(ended).count(reason) for reason in sorted(set(ended))},
        intervals=_intervals(table, of),
        bleu_signature=_signature(),
        settings=dict(settings or {}),
    )


def bleu_of(counts: np.ndarray) -> float:
    """BLEU of summed counts, ``(10,)``, as sacrebleu's `corpus_bleu` has it."""
    from sacrebleu.metrics.bleu import BLEU

    whole = [round(value) for value in counts]
    return float(BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score)


def _signature() -> str:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    metric.corpus_score(["one"], [["one"]])  # it has no signature before it has counted
    return str(metric.get_signature())


def _intervals(table: np.ndarray, of: Callable[[np.ndarray], dict[str, float]]) -> dict[str, tuple[float, float]]:
    if len(table) < 2:
        return {}
    made = [of(sums) for sums in drawn(table)]
    return {name: ends_of(np.array([one[name] for one in made])) for name in made[0]}
