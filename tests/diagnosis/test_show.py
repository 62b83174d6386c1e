"""What a person reads: one screen, narrow terminals, pipes, no colour."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from helpers import ROOT

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.show import Screen, as_json, lines_of
from llmforge.errors import Entry

FOUND = Finding(
    "limits",
    "warning",
    "A process may have 256 open files, fewer than the usual 1024, which data loaders and memory maps do not get far with.",
    "Raise it in the shell that trains: ulimit -n 4096.",
    "system-limits",
    simulated=True,
)


@pytest.mark.parametrize("width", [40, 64, 80, 200])
def test_lines_keep_within_the_terminal(width: int):
    lines = list(lines_of(FOUND, width))
    # An anchor is copied from the screen, and is never cut.
    assert [line for line in lines if len(line) > width and "docs/troubleshooting.md#system-limits" not in line] == []
    assert lines[0].startswith("warning  limits")
    joined = " ".join(" ".join(lines).split())
    assert f"{FOUND.text} * → {FOUND.advice}" in joined
    assert sum("→" in line for line in lines) == 1


def test_in_a_pipe_each_part_is_one_line():
    """For grep."""
    assert list(lines_of(FOUND, None)) == [
        f"warning  limits     {FOUND.text} *",
        "                    → Raise it in the shell that trains: ulimit -n 4096. (docs/troubleshooting.md#system-limits)",
    ]


def test_nothing_that_a_machine_says_changes_the_terminal():
    hostile = Finding("gpu", "note", "a card called \x1b[2J\x1b]0;mine\x07", "\x1b[31mred")
    assert not re.search(r"[\x00-\x1f]", "".join(lines_of(hostile, None)))


def test_without_anything_to_do_there_is_no_arrow():
    assert list(lines_of(Finding("disk", "ok", "fine"), None)) == ["ok       disk       fine"]


def test_the_end_counts_warnings_and_explains_the_mark(capsys):
    Screen().end([Finding("disk", "ok", "fine")], 12.4)
    assert capsys.readouterr().out == "Training will work here. (12 s)\n"
    Screen().end([FOUND, FOUND], 1.0)
    assert capsys.readouterr().out == (
        "* this check was tried on simulated machines only\nTraining will work here, with 2 warnings. (1 s)\n"
    )
    Screen().end([Finding("disk", "failure", "full")], 1.0)  # the error says it
    assert capsys.readouterr().out == ""


def test_in_a_pipe_nothing_is_shown_of_what_is_being_done(capsys):
    screen = Screen()
    screen.doing("softmax")
    screen.clear()
    assert capsys.readouterr() == ("", "")


def test_json_says_where_a_check_was_tried():
    told = as_json([FOUND, Finding("disk", "failure", "full")], 3.14159)
    assert (told["works"], told["seconds"]) == (False, 3.1)
    assert [item["checked_on"] for item in told["findings"]] == ["simulated machines only", "a real machine"]
    assert told["findings"][0]["see"] == "docs/troubleshooting.md#system-limits"
    assert as_json([FOUND], 1.0)["works"]


# The page of symptoms.


def anchors() -> set[str]:
    """Every entry's, as the page has them."""
    return set(re.findall(r'^<a id="([a-z-]+)"></a>$', (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE))


def test_every_entry_that_the_code_can_name_is_in_the_page():
    """mypy sees that nothing else is named: `see` is an `Entry` everywhere."""
    assert {*get_args(Entry)} - {""} == anchors()


def test_every_entry_says_what_diagnoses_it():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    entries = re.split(r'^<a id="[a-z-]+"></a>$', text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(anchors()) > 10
    for entry in entries:
        assert re.match(r"\n\n## .+\n", entry)
        assert "```bash" in entry, entry[:60]
