"""The view of a run: whole, going on, killed, damaged, hostile."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import BEGUN, FINISHED, RECORD, made_run, train_line

from llmforge.checkpoints.manifest import write_manifest
from llmforge.errors import ConfigError
from llmforge.runtime.run_lock import LOCK, RunLock
from llmforge.viewing.run import RunReader, view_run
from llmforge.viewing.settings import differences
from llmforge.viewing.text import shown
from llmforge.viewing.verdicts import verdicts


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return made_run(tmp_path / "runs" / "made")


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"w" * 1000)
    write_manifest(path, "abcdef123456", step)
    return path


def test_a_finished_run(finished):
    view = view_run(finished)
    assert (view.name, view.standing.state, view.standing.exit_code) == ("made", "finished", 0)
    assert (view.step, view.max_steps, view.fraction, view.tokens, view.seconds) == (200, 200, 1.0, 200_000, 600.0)
    assert view.eta_seconds is None
    assert view.best == ("eval_loss", 200, view.latest["eval_loss"])
    assert view.latest["loss"] == pytest.approx(2.5 + 4.5 / 11)
    assert len(view.series["loss"]) == 40
    assert [(sample.step, sample.strategy) for sample in view.samples][:2] == [(40, "greedy"), (40, "sampled")]
    assert view.card["splits"]["train"]["documents"] == 7
    assert view.problems == []


def test_where_the_settings_differ_from_the_defaults(finished):
    """As the run recorded them; the folder says nothing about the training."""
    found = [(item.name, item.value, item.default) for item in view_run(finished).changes]
    assert found == [
        ("model.preset", "gpt2-10m", "gpt2-124m"),
        ("model.n_layer", 4, None),
        ("training.learning_rate", 0.001, None),
    ]


def test_a_run_that_goes_on(finished):
    """Its process holds the lock; what is left is what was logged, less the time since."""
    (finished / "exit.json").unlink()
    with (finished / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(train_line(205, eta_seconds=100.0)) + "\n")
    lock = RunLock(finished)
    try:
        view = view_run(finished, now=BEGUN + 205 + 30)
    finally:
        lock.release()
    assert view.standing.state == "running"
    assert f"process {os.getpid()}" in view.standing.process
    assert (view.eta_seconds, view.seconds) == (70.0, 235.0)


def test_a_run_killed_by_9(finished):
    """Its lock is gone with the process, and what it wrote into it is still there."""
    (finished / "exit.json").unlink()
    holder = {"host": platform.node(), "pid": 2**22 + 1, "since": BEGUN}
    (finished / LOCK).write_text(json.dumps(holder))
    view = view_run(finished)
    assert (view.standing.state, view.standing.process, view.eta_seconds) == ("killed", None, None)
    assert view.seconds == 200.5  # to what it logged last
    (finished / LOCK).write_text(json.dumps(holder | {"host": "another-machine"}))
    assert view_run(finished).standing.state == "unknown"


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ({"exit_code": 75, "reason": "Stopped by Ctrl-C after step 7."}, "stopped"),
        ({"exit_code": 75, "reason": "interrupted by Ctrl-C"}, "stopped"),
        ({"exit_code": 75, "reason": "Stopped by SIGTERM after step 7."}, "preempted"),
        ({"exit_code": 75, "reason": "Stopped by a dead launcher after step 7."}, "preempted"),
        ({"exit_code": 6, "reason": "Step 7: loss nan"}, "diverged"),
        ({"exit_code": 5, "reason": "the disk is full", "finished": False}, "failed"),
        ({"exit_code": 5, "reason": "Not uploaded yet", "finished": True}, "finished"),
        ({"exit_code": None}, "failed"),
    ],
)
def test_how_it_ended(tmp_path, end, state):
    assert view_run(made_run(tmp_path / "run", end={"starts": 1, "time": "2026-01-31T12:10:00Z"} | end)).standing.state == state


def test_an_end_of_an_earlier_start_is_none(tmp_path):
    assert view_run(made_run(tmp_path / "run", record={"starts": 2})).standing.state == "killed"


def test_a_run_that_has_just_begun(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = RunLock(folder)
    try:
        view = view_run(folder)
    finally:
        lock.release()
    assert (view.standing.state, view.step, view.series, view.changes, view.latest) == ("running", 0, {}, None, {})
    assert [item.level for item in verdicts(view)][:2] == ["unknown", "unknown"]


def test_it_is_read_anew_as_it_grows(finished):
    reader = RunReader(finished)
    assert reader.view().step == 200
    with (finished / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(train_line(205)) + '\n{"step": 210')
    with (finished / "samples.jsonl").open("a") as file:
        file.write('{"step": 205, "text": "new"}\n')
    view = reader.view()
    assert (view.step, len(view.series["loss"]), view.samples[-1].text) == (205, 41, "new")


@pytest.mark.parametrize("name", ["run.json", "exit.json", "uploads.json", "eval.json", "divergence.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_is_told_and_the_rest_is_there(finished, name, content):
    (finished / name).write_bytes(content)
    view = view_run(finished)
    assert len(view.series["loss"]) == 40
    assert any(name in line for line in view.problems)


def test_records_of_other_shapes_are_no_error(tmp_path):
    odd = {
        "config": [1],
        "defaults": 7,
        "data": "x",
        "created": 5,
        "versions": [],
        "starts": "x",
        "steps": "many",
        "tokenizer": None,
    }
    folder = made_run(tmp_path / "run", record=odd, end={"exit_code": "0", "time": 7})
    (folder / "samples.jsonl").write_text('{"step": 1}\n{"step": "x", "text": "y"}\n{"step": 1, "text": 7}\n[]\n')
    view = view_run(folder)
    assert (view.samples, view.config, view.max_steps) == ([], {}, None)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_a_folder_that_holds_no_run_is_refused(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(ConfigError, match="x"):
        view_run(tmp_path / "x")


def test_checkpoints_here_and_in_the_store(finished):
    for step in (40, 80, 120):
        checkpoint(finished, step)
    (finished / "checkpoint-80" / "model.safetensors").write_bytes(b"short")
    (finished / "checkpoint-160").mkdir()
    uploads = {f"checkpoint-{step}": {"state": state} for step, state in ((20, "done"), (40, "done"), (120, "uploading"))}
    (finished / "uploads.json").write_text(
        json.dumps({"remote": "gs://b/r", "superseded": 0, "checkpoints": uploads, "files": {}})
    )
    (finished / "report.html").write_text("the page itself is sent last")
    kept = view_run(finished).saved
    assert [(item.step, item.here, item.remote) for item in kept.checkpoints] == [
        (20, None, "done"),
        (40, "committed", "done"),
        (80, "damaged", None),
        (120, "committed", "queued"),  # nobody uploads any more
        (160, "not committed", None),
    ]
    assert kept.checkpoints[1].size == 1000
    assert kept.checkpoints[1].loss == pytest.approx(2.5 + 4.5 / 3 + 0.1)
    assert "model.safetensors" in kept.checkpoints[2].problem
    assert "checkpoint-120" in kept.undelivered
    assert "report.html" not in kept.undelivered


def test_the_best_is_by_the_metric_the_run_chooses_by(tmp_path):
    config = RECORD["config"] | {"training": {"metric_for_best_model": "bits_per_byte"}}
    folder = made_run(tmp_path / "run", validation=lambda step: 4.0 + abs(step - 80) / 100, record={"config": config})
    assert view_run(folder).best == ("eval_bits_per_byte", 80, 2.0)


def test_warnings_of_the_log(finished):
    (finished / "run.log").write_text(
        "2026-01-31 12:00:00,123 INFO step 5/200 loss=4\nRun table\n"
        "2026-01-31 12:00:01,000 WARNING slow\x1b[31m disk\n  of two lines\n"
        "2026-01-31 12:00:02,000 ERROR bad\n2026-01-31 12:00:03,0"
    )
    found = [(item.time, item.level, item.text) for item in view_run(finished).warnings]
    assert found[0] == ("2026-01-31 12:00:01", "WARNING", "slow� disk\n  of two lines")
    assert found[1][1:] == ("ERROR", "bad\n2026-01-31 12:00:03,0")


def test_planned_steps_of_a_run_that_did_not_record_them(tmp_path):
    folder = made_run(tmp_path / "run", record={"steps": None})
    assert view_run(folder).max_steps is None
    (folder / "run.log").write_text("2026-01-31 12:00:00,123 INFO step 5/777 loss=4\n")
    assert view_run(folder).max_steps == 777


def test_texts_are_fit_to_be_shown(tmp_path):
    samples = [{"step": 1, "prompt": "\x1b]0;title\x07p", "strategy": "a\nb", "text": "x\x1b[2J\u202egnp" + "y" * 1_000_000}]
    folder = made_run(
        tmp_path / "run", samples=samples, record={"host": "\x1b[31mred", "config": {"data": {"corpus": "\x1b[0m"}}}
    )
    view = view_run(folder)
    [sample] = view.samples
    assert "\x1b" not in repr(view.record) + sample.prompt + sample.text + repr(view.config)
    assert "\u202e" not in sample.text
    assert len(sample.text) < 21_000
    assert sample.text.endswith("more characters)")
    assert shown("a\ud800b") == "a�b"


@pytest.mark.parametrize("depth", [600, 5000])
def test_what_is_nested_deeply_is_shown_as_far_as_anybody_reads(tmp_path, depth):
    """In a record and in a sample: neither the report nor the monitor comes to an end of Python's patience."""
    from llmforge.reporting.page import render

    nested = "[" * depth + '"x"' + "]" * depth
    folder = made_run(tmp_path / "run", samples=[])
    record = json.dumps(RECORD | {"config": {"data": {"corpus": "x"}}}).replace('"x"', nested)
    (folder / "run.json").write_text(record)
    sample = f'{{"step": 1, "text": "a", "settings": {{"x": {nested}}}, "prompt": {nested}}}\n'
    (folder / "samples.jsonl").write_text(sample + '{"step": 2, "text": "b", "prompt": ""}\n')
    view = view_run(folder)
    assert view.samples[-1].text == "b"
    if depth == 600:
        assert "[[[…]]]" in str(view.config["data"]["corpus"]).replace("'", "")
        assert len(view.samples) == 2
    assert "<html" in render([view], BEGUN)


def test_a_run_of_many_samples_is_held_in_part_and_evenly(tmp_path):
    """The first, the newest and what lies between; what has not grown is not copied at every look."""
    folder = made_run(tmp_path / "run", samples=[])

    def write(*steps: int) -> None:
        texts = (json.dumps({"step": step, "text": f"{step} {kind}", "strategy": kind}) for step in steps for kind in "ab")
        with (folder / "samples.jsonl").open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))

    reader = RunReader(folder)
    for begin in range(0, 12_000, 1500):  # looked at while it grows
        write(*range(begin, begin + 1500))
        view = reader.view()
        steps = sorted({sample.step for sample in view.samples})
        assert len(view.samples) <= 2000
        assert len(view.samples) == 2 * len(steps), "of a step all or none"
        assert (steps[0], steps[-1]) == (0, begin + 1499)
        gaps = [after - before for before, after in itertools.pairwise(steps)]
        assert max(gaps) <= 4 * max((begin + 1500) / 1000, 1), "no part of the run is bare"
    assert len(view.samples) > 400
    assert reader.view().samples is view.samples
    write(12_000)
    assert [sample.text for sample in reader.view().samples[-2:]] == ["12000 a", "12000 b"]
    assert view.samples[-1].step == 11_999  # what was given out stays as it was


def test_a_line_that_is_too_long_is_told(finished, monkeypatch):
    monkeypatch.setattr("llmforge.viewing.lines._LONGEST", 1000)
    with (finished / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"step": 500, "text": "x" * 5000}) + "\n" + json.dumps({"step": 501, "text": "y"}) + "\n")
    view = view_run(finished)
    assert view.samples[-1].text == "y"
    assert view.problems == ["samples.jsonl: lines longer than any that a run writes are left out (1)."]


def test_differences_of_several_configurations():
    configs = [
        {"training": {"seed": 1, "lr": 2}, "run": {"resume": "x"}},
        {"training": {"seed": 3, "lr": 2}, "lora": {"lora": True}},
    ]
    assert differences(configs) == {"training.seed": [1, 3], "lora.lora": ["—", True]}


def test_nothing_heavy_is_imported(finished):
    """`monitor` starts in the time of that."""
    code = "import sys; from llmforge.viewing.verdicts import verdicts; from llmforge.viewing.run import view_run;"
    code += f"verdicts(view_run({str(finished)!r}));"
    code += "print({'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'fsspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_looking_changes_nothing(finished):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.rglob("*")}
    verdicts(view_run(finished))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.rglob("*")} == before
    assert FINISHED["exit_code"] == 0
