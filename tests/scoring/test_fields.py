"""Answers taken apart by the template of their task."""

from __future__ import annotations

import pytest

from llmforge.scoring.fields import answer_fields, parse_answer, skeleton
from llmforge.tasks.fields import TaskField
from llmforge.tasks.files import BUILT_IN
from llmforge.tasks.task import Task

FAULT = Task(
    name="fault",
    fields=(
        TaskField("machine", required=True),
        TaskField("codes", is_list=True),
        TaskField("cause", required=True),
        TaskField("steps", required=True, is_list=True),
        TaskField("note"),
    ),
    prompt="Machine: {{ machine }}{{ codes | join }}\nCause:",
    completion=" {{ cause }}\nSteps:\n{% for step in steps %}- {{ step | upper }}.{{ '\n' }}{% endfor %}"
    "{% if note %}Note: {{ note }}{% endif %}",
)
ROW = {"machine": "X1", "cause": "a worn seal", "steps": ["drain it", "replace it"], "note": "wear gloves"}


def parsed(answer: str, row: dict = ROW, task: Task = FAULT):
    return parse_answer(answer, *skeleton(task, row, "row"))


def test_the_fields_of_the_answer_are_those_that_the_prompt_does_not_give():
    assert answer_fields(FAULT) == ("cause", "steps", "note")
    assert answer_fields(BUILT_IN["qa"]) == ("answer",)
    assert answer_fields(BUILT_IN["chat"]) == ()


def test_a_reference_gives_its_fields_as_the_template_writes_them():
    reference = FAULT.render(ROW)[1]
    assert parsed(reference) == ({"cause": "a worn seal", "steps": "DRAIN IT. - REPLACE IT", "note": "wear gloves"}, True)


def test_a_field_that_the_row_leaves_empty_has_no_place():
    row = {**ROW, "note": ""}
    assert parsed(FAULT.render(row)[1], row) == ({"cause": "a worn seal", "steps": "DRAIN IT. - REPLACE IT"}, True)


@pytest.mark.parametrize(
    ("answer", "fields", "whole"),
    [
        (" rust  Steps:\n\n- LOOK.\nNote: x", {"cause": "rust", "steps": "LOOK", "note": "x"}, True),  # white space alone
        (" rust\nSteps:\n- LOOK.\n", {"cause": "rust", "note": None}, False),  # nothing ends the steps
        (" rust. Note: x", {"cause": None, "steps": None, "note": "x"}, False),
        (" rust and more rust", {"cause": None, "steps": None, "note": None}, False),
        ("", {"cause": None, "steps": None, "note": None}, False),
        (" Steps: - A.\nSteps: - B.\nNote: Note: y", {"cause": "Steps: - A.", "steps": "B", "note": "Note: y"}, True),
    ],
)
def test_answers_are_read_from_left_to_right(answer, fields, whole):
    found, form = parsed(answer)
    assert form is whole
    assert {name: found.get(name) for name in fields} == fields


def test_one_field_is_the_whole_answer():
    row = {"question": "Why?", "answer": "So."}
    assert parsed(" So.\n", row, BUILT_IN["qa"]) == ({"answer": "So."}, True)


def test_fields_that_nothing_parts_are_read_as_one():
    task = Task(
        name="t", fields=(TaskField("a"), TaskField("b"), TaskField("c")), prompt="x", completion="{{ a }}{{ b }}={{ c }}"
    )
    assert skeleton(task, {"a": "1", "b": "2", "c": "3"}, "row")[0] == ["b", "c"]
    assert parsed("12=3", {"a": "1", "b": "2", "c": "3"}, task) == ({"b": "12", "c": "3"}, True)
