"""`llmforge convert`: blocks of text, questions and chats as rows; what is dropped is counted by line."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from reliability.harness import KillAt, forked

from llmforge import convert
from llmforge.runtime.commands import run_command
from llmforge.tasks.files import BUILT_IN, find_task, load_task
from llmforge.tasks.rows import Row
from llmforge.tasks.scenarios import parse_scenarios

TASK = """\
name: diagnostics
fields:
  equipment: {required: true, aliases: [Machine]}
  symptom: {required: true}
  error_codes: {list: true}
  solution: {required: true, list: true}
prompt: "{{ equipment }}: {{ symptom }} ({{ error_codes or 'no codes' }})\\n"
completion: "{{ solution | join('\\n') }}"
"""
BLOCKS = """\
Equipment: Caterpillar 320D
Symptom: Engine loses power
 under load

  and smokes
Severity: high
Error Codes: P0087, P0191
Solution:
- Replace the filter.
Note: seen twice.
- Bleed it, then
  start.

Machine: Volvo L60H
Severity: low
Symptom: Boom drifts
**Error codes:** none
Solution: Replace the seal; Refill
"""


@pytest.fixture
def task():
    Path("diagnostics.yaml").write_text(TASK)
    return find_task("diagnostics.yaml")


def command(*words: str) -> int:
    return run_command(convert.main, list(words))


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def test_blocks_become_rows(task):
    first, second = parse_scenarios(BLOCKS, task)
    assert first.row == {
        "equipment": "Caterpillar 320D",
        "symptom": "Engine loses power\nunder load\n\nand smokes",
        "error_codes": ["P0087", "P0191"],
        "solution": ["Replace the filter. Note: seen twice.", "Bleed it, then start."],
    }
    assert second.row["error_codes"] == []
    assert second.row["solution"] == ["Replace the seal", "Refill"]
    assert (first.line, second.line) == (1, 14)
    assert (first.left_out, second.left_out) == ([("severity", 6)], [("severity", 15)])


@pytest.mark.parametrize("separator", ["---", "* * *", "## Case 7", "======"])
def test_where_there_are_separators_blank_lines_part_nothing(task, separator):
    text = f"Equipment: a\n\nSymptom: b\n{separator}\nSymptom: c\n\nEquipment: d\n\nSolution: e\n"
    assert [(item.line, item.row) for item in parse_scenarios(text, task)] == [
        (1, {"equipment": "a", "symptom": "b"}),
        (5, {"symptom": "c", "equipment": "d", "solution": ["e"]}),
    ]


def test_a_block_without_its_first_field_takes_nothing_from_the_next(task):
    text = "Symptom: a\nSolution: b\n\nEquipment: c\nSymptom: d\nSolution: e"
    assert [item.row.get("equipment") for item in parse_scenarios(text, task)] == [None, "c"]


def test_chats_and_questions():
    chats = "System: be brief\nUser: hi\nAssistant: ho\n\nmore\n---\nHuman: a\nBot: b\n"
    assert [item.row["messages"] for item in parse_scenarios(chats, BUILT_IN["chat"])] == [
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho\n\nmore"},
        ],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ]
    questions = "Q: why?\nA: so\n\nQ: who?\nA: me\n\nand you\n"
    assert [item.row for item in parse_scenarios(questions, BUILT_IN["qa"])] == [
        {"question": "why?", "answer": "so"},
        {"question": "who?", "answer": "me\n\nand you"},
    ]


def scenarios(count: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    words = [f"word{number}" for number in range(400)]
    said = [[" ".join(source.sample(words, 9)) for _ in range(2)] for _ in range(count)]
    return [f"Equipment: machine {place}\nSymptom: {one}\nSolution: {two}\n" for place, (one, two) in enumerate(said)]


def test_the_three_files_share_nothing(task):
    texts = scenarios(120)
    # The same question with other answers, in other writing, and near copies of whole scenarios.
    texts += [text.replace("Solution: ", f"Solution: first {place} then ") for place, text in enumerate(texts[:40])]
    texts += [re.sub("word", "WORD", text) + " x" for text in texts[40:60]]
    texts += [text.replace("machine", "engine") for text in texts[60:80]]
    random.Random(1).shuffle(texts)
    Path("all.txt").write_text("\n".join(texts))
    assert command("all.txt", "out", "--task", "diagnostics.yaml", "--split_seed", "3") == 0
    splits = {name: rows_of(f"out/{name}.jsonl") for name in ("train", "validation", "test")}
    assert all(len(rows) > 4 for rows in splits.values())
    told = load_task("out")
    prompts = {name: {told.render(row)[0].casefold() for row in rows} for name, rows in splits.items()}
    answers = {name: {frozenset(row["solution"][0].casefold().split()) - {"x"} for row in rows} for name, rows in splits.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not prompts[one] & prompts[other]
        assert not answers[one] & answers[other]
    # Adding a scenario moves none of the others.
    Path("all.txt").write_text("\n".join([*texts, scenarios(1, seed=9)[0].replace("machine", "crane")]))
    assert command("all.txt", "more", "--task", "diagnostics.yaml", "--split_seed", "3") == 0
    for name, rows in splits.items():
        assert [row for row in rows_of(f"more/{name}.jsonl") if "crane" not in row["equipment"]] == rows


def test_what_is_dropped_is_counted_and_named_by_line(task, capsys):
    text = BLOCKS + "\nEquipment: JLG 600S\nSolution: x\n\nEquipmnt: a\nSymptom: b\nSolution: c\n\n"
    text += "Equipment: y\nSymptom: z\nSymptom: zz\nSolution: c\n"
    Path("d.txt").write_text(text + "\n" + BLOCKS)
    assert command("d.txt", "out", "--task", "diagnostics.yaml", "--split-ratios", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["read"], told["splits"]) == (7, {"train": 2})
    assert {reason: (drop["count"], drop["examples"]) for reason, drop in told["dropped"].items()} == {
        "'equipmnt' is no field of the task, did you mean 'equipment'": (1, ["d.txt:23"]),
        "'severity', which the task has no field for": (4, ["d.txt:6", "d.txt:15", "d.txt:37"]),
        "exact copy": (2, ["d.txt:32", "d.txt:45"]),
        "the field 'symptom' of the task diagnostics is missing": (1, ["d.txt:20"]),
        "the field 'symptom' stands there twice": (1, ["d.txt:29"]),
    }
    assert command("d.txt", "out", "--task", "diagnostics.yaml", "--split_ratios", "1", "--strict") == 3
    assert capsys.readouterr().err.startswith("error: d.txt:6: 'severity'")


def test_rows_of_others_and_a_task_that_they_tell_of(capsys):
    Path("rows.jsonl").write_text('{"Q": "why?", "A": "so"}\n\nno json\n[1]\n{"Q": "who?"}\n{"question": "when?", "answer": 3}\n')
    assert command("rows.jsonl", "out", "--split_ratios", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["read"], told["splits"]) == ("qa", 5, {"train": 2})
    assert [drop["examples"] for drop in told["dropped"].values()] == [["rows.jsonl:3"], ["rows.jsonl:4"], ["rows.jsonl:5"]]
    assert [row["answer"] for row in rows_of("out/train.jsonl")] == ["so", "3"]
    Path("rows.csv").write_text('question,answer\n"why,\nnow?",so\nwhen?\nwho?,me\n')
    assert command("rows.csv", "out", "--split_ratios", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dropped"].popitem()[1]["examples"] == ["rows.csv:4"]
    assert [row["question"] for row in rows_of("out/train.jsonl")] == ["why,\nnow?", "who?"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nothing.txt", "out", "--task", "qa"], 3, "nothing.txt: no such file"),
        (["d.txt", "out"], 2, "Give --task FILE"),
        (["d.txt", "d.txt", "--task", "qa"], 2, "OUT_DIR d.txt is a file"),
        (["d.txt", "out", "--task", "qa"], 3, "no scenario that the task qa can use"),
        (["d.txt", "out", "--task", "nope.yaml"], 2, "--task nope.yaml: no such file"),
        (["d.txt", "out", "--task", "diagnostics.yaml"], 3, "split got none of the 2 documents"),
        (["latin.txt", "out", "--task", "qa"], 3, "latin.txt:2: this is not UTF-8"),
        (["d.txt", "out", "--tusk", "qa"], 2, "--tusk"),
    ],
)
def test_mistakes_are_one_line(task, capsys, words, code, told):
    Path("d.txt").write_text(BLOCKS)
    Path("latin.txt").write_bytes(b"Q: a\nA: caf\xe9\n")
    assert command(*words) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert told in error
    assert not Path("out/train.jsonl").exists()


def rows_in(folder: str) -> dict[str, list[dict]]:
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in Path(folder).glob("*.jsonl")}


def test_a_list_goes_on_after_a_comma(task):
    text = "Equipment: a\nError Codes: P0087, P0191,\n  P0300, P0301\nSymptom: x, y,\nz\nSolution: Bleed, then\nmeasure; again\n"
    [scenario] = parse_scenarios(text, task)
    assert scenario.row["error_codes"] == ["P0087", "P0191", "P0300", "P0301"]
    assert scenario.row["symptom"] == "x, y,\nz"  # a text stays as it is
    assert scenario.row["solution"] == ["Bleed, then", "measure; again"]
    [scenario] = parse_scenarios("Equipment: a\nError Codes:\nP1; P2;\nP3\n", task)
    assert scenario.row["error_codes"] == ["P1", "P2", "P3"]
    [scenario] = parse_scenarios("Equipment: a\nError Codes: P1, P2,\nP3\nP4\n", task)
    assert scenario.row["error_codes"] == ["P1", "P2", "P3", "P4"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(task, end):
    """Form feeds, U+0085 and U+2028 stand inside texts, and what follows them is no field's name."""
    odd = "leaks\x0cSolution: b\x85Solution: c\u2028Solution: d\x1cSolution: e"
    [scenario] = parse_scenarios(end.join(["Equipment: a", f"Symptom: {odd}", "Solution: f"]), task)
    assert (scenario.row["symptom"], scenario.row["solution"], scenario.problem) == (odd, ["f"], "")


def test_what_is_said_in_a_chat_may_have_headings_lines_and_code():
    said = "# Steps\n\n1. Open it\n---\n## Then\nclose it"
    code = "Write:\n```yaml\nuser: root\n---\nsystem: linux\n# User\n```\nDone."
    text = f"# Chat 1\nUser: how?\nAssistant: {said}\nUser: and?\nAssistant: {code}\n---\n"
    text += "## Chat 2\n\nUser: ```?\nAssistant: yes\n---\n"
    first, second = (scenario.row["messages"] for scenario in parse_scenarios(text, BUILT_IN["chat"]))
    assert [message["content"] for message in first] == ["how?", said, "and?", code]
    assert [message["content"] for message in second] == ["```?", "yes"]


def test_an_earlier_conversion_inside_is_left_out(task, capsys):
    """The second time reads what the first did, and not what it wrote; what is read is never written over."""
    Path("in").mkdir()
    Path("in/a.txt").write_text("\n".join(scenarios(40)))
    args = ["--task", "diagnostics.yaml", "--json", "--split_ratios", "0.8,0.1,0.1"]
    assert command("in", "in/out", *args) == 0
    first, told = rows_in("in/out"), capsys.readouterr().out
    assert command("in", "in/out", *args) == 0
    assert (rows_in("in/out"), capsys.readouterr().out) == (first, told)  # and nothing is dropped as a duplicate
    before = {path: path.read_bytes() for path in Path("in").rglob("*") if path.is_file()}
    for source, folder in (("in", "in"), ("in/out/train.jsonl", "in/out"), ("in/out", "in/../in/out")):
        assert command(source, folder, *args) == 2
    assert {path: path.read_bytes() for path in Path("in").rglob("*") if path.is_file()} == before


def stopped(number: int, work, monkeypatch) -> int:
    """As `forked` with `KillAt`, at the renames alone and in this process."""
    left, rename = number, os.replace

    def counted(*args) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        rename(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        try:
            work()
        except KeyboardInterrupt:
            return -signal.SIGKILL
    return 0


@pytest.mark.parametrize("most", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["renames", "kills"])
def test_all_files_are_placed_or_none(task, most, monkeypatch):
    """A kill at any touch of the folder leaves the old rows, the new ones, or no training rows: never some of each."""
    Path("old.txt").write_text("\n".join(scenarios(40)))
    Path("new.txt").write_text("\n".join(scenarios(40, seed=5)))
    args = ["--task", "diagnostics.yaml", "--split_ratios", "0.8,0.1,0.1", "--json"]
    whole = {}
    for name in ("old", "new"):
        assert command(f"{name}.txt", name, *args) == 0
        whole[name] = rows_in(name)
    splits = {name: [Row("", row) for row in rows] for name, rows in whole["new"].items()}
    number, code, seen = 0, -signal.SIGKILL, set()
    while code:
        number += 1
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree("old", "out")
        Path("out/mine.md").write_text("mine")

        def work(number=number) -> None:
            sys.addaudithook(KillAt(Path("out"), number))
            convert._write(Path("out"), splits, task)

        code = forked(work) if most is None else stopped(number, lambda: convert._write(Path("out"), splits, task), monkeypatch)
        assert code in (0, -signal.SIGKILL)
        found = rows_in("out")
        which = next((name for name, rows in whole.items() if rows == found), "none")
        assert which != "none" or "train" not in found
        seen.add(which)
        assert Path("out/mine.md").read_text() == "mine"
    assert seen == {"new", "none"} | ({"old"} if most is None else set())


def test_a_full_disk_leaves_the_old_rows(task):
    Path("old.txt").write_text("\n".join(scenarios(40)))
    Path("new.txt").write_text("\n".join(scenarios(80, seed=5)))
    args = ["--task", "diagnostics.yaml", "--split_ratios", "0.8,0.1,0.1", "--json"]
    assert command("old.txt", "out", *args) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))
        assert command("new.txt", "out", *args) == 5

    assert forked(work) == 0
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


def test_what_lies_in_a_folder_of_the_output_is_read(task):
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.txt").write_text("\n".join(scenarios(40)))
    assert command("data/raw", "data", "--task", "diagnostics.yaml") == 0
    assert Path("data/train.jsonl").is_file()
    assert command("data/raw", "data", "--task", "diagnostics.yaml") == 0
