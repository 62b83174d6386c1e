"""Answers against references: the libraries' own figures, and fields."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from llmforge.scoring.matching import ROUGE, answer_figures, score_answers
from llmforge.tasks.fields import TaskField
from llmforge.tasks.files import BUILT_IN
from llmforge.tasks.rows import Row
from llmforge.tasks.task import Task

TASK = Task(
    name="fault",
    fields=(TaskField("machine"), TaskField("cause", required=True), TaskField("step", required=True), TaskField("note")),
    prompt="{{ machine }}:",
    completion=" {{ cause }}\nStep: {{ step }}{% if note %}{{ '\n' }}Note: {{ note }}{% endif %}",
)
ROWS = [
    Row("r:1", {"machine": "a", "cause": "the seal is worn", "step": "replace the seal and test it", "note": "wear gloves"}),
    Row("r:2", {"machine": "b", "cause": "the filter is blocked by dirt", "step": "change the filter"}),
    Row("r:3", {"machine": "c", "cause": "the belt slips", "step": "set the belt"}),
    Row("r:4", {"machine": "d", "cause": "the plug is wet", "step": "dry the plug"}),
]
ANSWERS = [
    " the seal  is worn\nStep: replace the seal and test it\nNote: wear gloves\n",  # right but for white space
    " the filter is blocked by dirt\nStep: clean the filter",
    " the belt is blocked by the filter",  # not of the form
    "",
]
REFERENCES = [TASK.render(row.values)[1] for row in ROWS]


@pytest.fixture
def figures():
    return answer_figures(score_answers(TASK, ROWS, ANSWERS), ["end of text", "length", "length", "stop string"], {"a": 1})


def test_bleu_is_that_of_sacrebleu_over_the_whole(figures):
    whole = sacrebleu.corpus_bleu([answer.strip() for answer in ANSWERS], [[text.strip() for text in REFERENCES]])
    assert figures.bleu == pytest.approx(whole.score)
    assert 0 < figures.bleu < 100
    assert "tok:13a" in figures.bleu_signature


def test_rouge_is_the_mean_of_rouge_score(figures):
    scorer = RougeScorer(list(ROUGE))
    for name in ROUGE:
        own = [scorer.score(reference, answer)[name].fmeasure for reference, answer in zip(REFERENCES, ANSWERS, strict=True)]
        assert getattr(figures, name) == pytest.approx(np.mean(own))


def test_rouge_knows_words_of_other_scripts():
    rows = [Row("r:1", {"question": "?", "answer": "насос изношен и течёт"})]
    assert RougeScorer(["rouge1"]).score("насос изношен", "насос изношен")["rouge1"].fmeasure == 0  # so much for stock
    scores = score_answers(BUILT_IN["qa"], rows, [" насос изношен"])
    assert scores.columns["rouge1"][0] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_exact_matches_and_fields_are_counted(figures):
    assert (figures.rows, figures.exact_match, figures.in_format) == (4, 0.25, 0.5)
    # The note is asked of one row alone, and of the answer without a form nothing is right, its beginning neither.
    assert figures.fields == {"cause": 0.5, "step": 0.25, "note": 1.0}
    assert figures.field_accuracy == pytest.approx((2 + 1 + 1) / (4 + 4 + 1))
    assert figures.ended == {"end of text": 1, "length": 2, "stop string": 1}
    assert figures.settings == {"a": 1}


def test_intervals_hold_the_figures_and_are_always_the_same(figures):
    assert set(figures.intervals) == {"exact_match", "in_format", "field_accuracy", "bleu", *ROUGE}
    for name, (low, high) in figures.intervals.items():
        assert low <= getattr(figures, name) <= high
    assert figures.intervals["exact_match"] == (0.0, 0.75)  # of four draws with a quarter each
    again = answer_figures(score_answers(TASK, ROWS, ANSWERS))
    assert again.intervals == figures.intervals


def test_a_chat_has_no_fields():
    rows = [Row("r:1", {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]})]
    made = answer_figures(score_answers(BUILT_IN["chat"], rows, [" So."]))
    assert (made.exact_match, made.field_accuracy, made.in_format, made.fields, made.intervals) == (1.0, None, None, {}, {})


def test_empty_answers_have_figures_too():
    made = answer_figures(score_answers(TASK, ROWS, [""] * 4))
    assert (made.exact_match, made.field_accuracy, made.in_format, made.bleu, made.rougeL) == (0, 0, 0, 0, 0)


def test_a_completion_that_ends_in_a_stop_string_is_answered_without_it():
    task = dataclasses.replace(TASK, completion=" {{ cause }}\nStep: {{ step }}\n###\n", stop=("\n###",))
    made = answer_figures(score_answers(task, ROWS[1:2], [" the filter is blocked by dirt\nStep: change the filter"]))
    assert (made.exact_match, made.field_accuracy, made.in_format, made.fields) == (1, 1, 1, {"cause": 1, "step": 1})
