"""The view at every size: nothing wider or higher than the terminal, and the figures are the files'."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from monitoring.watched_runs import BEGAN, STEP, checkpoint, end, events, sample, uploads, write_run
from rich.cells import cell_len
from rich.console import Console

from llmforge.monitoring.screen import screen, text
from llmforge.runtime.run_lock import RunLock
from llmforge.viewing.run import view_run

#: Escapes, controls, turned order, wide and combining characters, what rich would take for a style, tabs, an endless line.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\u2066 好好学习\u0301 🧑‍🚀 [red]x[/red] a\tb\r\x08\x00" + "x" * 5000


def drawn(folder: Path, width: int, height: int, step: int = 500, colour: str | None = None) -> str:
    """What a terminal of that size shows, two seconds after a step; nothing but text without `colour`."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=colour is not None, color_system=colour)
    now = BEGAN + step * STEP + 2
    console.print(screen(view_run(folder, now), width, height, now, "q leaves"), end="", height=height)
    return file.getvalue().removesuffix("\n")


def plain(folder: Path, width: int = 80, now: float = BEGAN + 1002) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(text(view_run(folder, now), width, now))
    return console.file.getvalue()


@pytest.fixture
def going(tmp_path):
    """A run at step 250 of 500, held by a process, with samples, checkpoints and a store."""
    folder = write_run(tmp_path / "go-demo", events(250, total=500), [sample(200, "old"), sample(250)], total=500)
    for step in (100, 150, 200):
        checkpoint(folder, step)
    uploads(folder, _100="done", _150="done", _200="uploading")
    lock = RunLock(folder)
    yield folder
    lock.release()


@pytest.fixture
def hostile(tmp_path):
    """A run whose every text wants to be more than text."""
    logged = events(100, total=500)
    folder = write_run(tmp_path / "x\u202ename", logged, [sample(100, HOSTILE, HOSTILE)], total=500)
    record = json.loads((folder / "run.json").read_text())
    record |= {"host": HOSTILE, "device": HOSTILE}
    record["config"]["model"]["preset"] = HOSTILE
    (folder / "run.json").write_text(json.dumps(record))
    with open(folder / "run.log", "a", encoding="utf-8", errors="replace") as file:
        file.write(f"2020-01-01 01:00:01,000 WARNING {HOSTILE}\n")
    end(folder, 1, HOSTILE, 100)
    return folder


SIZES = [(80, 24), (160, 45), (120, 34), (100, 60), (81, 23), (60, 16), (40, 12), (20, 5), (10, 3), (1, 1), (300, 100), (200, 10)]


@pytest.mark.parametrize("which", ["going", "hostile", "empty"])
def test_nothing_is_wider_or_higher_than_the_terminal(which, tmp_path, request):
    folder = write_run(tmp_path / "empty", []) if which == "empty" else request.getfixturevalue(which)
    for width, height in SIZES:
        rows = drawn(folder, width, height).split("\n")
        assert len(rows) <= height, (width, height)
        assert max(map(cell_len, rows)) <= width, (width, height)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "".join(rows))


def test_at_80_by_24_everything_essential_is_there_and_true(going):
    shown = drawn(going, 80, 24, step=250)
    last = list(map(json.loads, (going / "metrics.jsonl").read_text().splitlines()))
    trained = [line for line in last if "loss" in line][-1]
    scored = [line for line in last if "eval_loss" in line][-1]
    for expected in (
        "go-demo",
        "running",
        "step 250 of 500",
        "50.0%",
        "8 min left",
        "learning?  Yes",
        "healthy?   Yes",
        "done?      In 8 min",
        "work safe?",
        f"loss {trained['loss']:.2f}; validation {scored['eval_loss']:.2f}, the best yet",
        f"{scored['eval_perplexity']:.1f}",
        f"{scored['eval_bits_per_byte']:.2f}",
        f"{trained['tokens_per_second']:,.0f}",
        f"grad norm  {trained['grad_norm']:.3f}",
        "8.5 GiB",
        "97.0 %",
        "100, 150, 200",
        "in the store: 2, 200 uploading",
        "warnings  none",
        "sample at 250  func ▶ main() { fmt.Println(x) }",
        "─ training  o validation",
        "perplexity",
        "q leaves",
    ):
        assert expected in shown, f"{expected!r} is not in\n{shown}"
    assert any("\u2801" <= character <= "\u28ff" for character in shown)


def test_a_wide_terminal_has_all_five_curves_and_every_table(going):
    shown = drawn(going, 160, 45, step=250)
    for title in ("loss", "perplexity", "learning rate", "gradient norm", "tokens/s", "checkpoints, store gs://bucket/runs/demo"):
        assert f"─ {title}" in shown, title
    assert "samples at step 250" in shown
    assert "fmt.Println(x)" in shown
    assert re.search(r"200 +[\d.]+ 2 kB +102 s ago uploading", shown)
    assert re.search(r"100 +[\d.]+ 2 kB +5 min ago in the store", shown)


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_run_that_has_only_just_begun(size, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    lock = RunLock(folder)  # all there is
    shown = drawn(folder, *size, step=0)
    assert "running" in shown
    assert "no loss logged yet" in shown
    assert "Nothing to lose yet" in shown
    lock.release()


def test_a_killed_run_is_shown_whole_and_said_to_be_killed(tmp_path):
    folder = write_run(tmp_path / "killed", events(250, total=500), [sample(250)])
    checkpoint(folder, 200)
    checkpoint(folder, 220, committed=False)  # while it was writing one
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 260, "loss": 2.')
    shown = drawn(folder, 80, 24)
    assert "● killed" in shown
    assert "killed at step 250 of 500" in shown
    assert "checkpoint-200, 50 steps ago" in shown
    assert re.search(r"loss 2\.\d\d; validation 2\.\d\d", shown)
    assert "left" not in shown  # no time to go
    assert "not committed" in drawn(folder, 160, 45)


def test_a_run_that_diverged_says_so(tmp_path):
    logged = events(200, total=500)
    folder = write_run(tmp_path / "bad", [*logged, {"step": 210, "loss": math.nan, "grad_norm": math.inf, "time": BEGAN}])
    end(folder, 6, "Step 211: loss nan, gradient norm inf. The step was not applied.", 210)
    shown = drawn(folder, 80, 24)
    assert "diverged" in shown
    assert "learning?  No" in shown
    assert "NaN" in shown
    assert "healthy?   No" in shown


def test_an_upload_that_fails_is_no_safe_work(going):
    uploads(going, _100="done", _150="failed", _200="queued")
    shown = drawn(going, 80, 24, step=250)
    assert "work safe? Here only" in shown
    assert "150 failed" in shown


def test_a_gpu_that_is_hot_or_waits_is_worth_a_look(tmp_path):
    for name, figures, told in (
        ("hot", {"device_temperature": 91.0}, "The GPU is at 91 °C"),
        ("idle", {"device_temperature": 50.0, "device_utilization": 20.0}, "The GPU is only 20 % busy"),
        ("well", {"device_temperature": 50.0}, "no warnings"),
        ("cpu", {"device_utilization": 20.0}, "no warnings"),
    ):
        folder = write_run(tmp_path / name, events(250, total=500, **figures), total=500)
        lock = RunLock(folder)
        row = drawn(folder, 80, 24, step=250).split("\n")[3]
        lock.release()
        assert "healthy?" in row
        assert told in row


def test_colours_are_only_colours(going):
    """What stands there is the same with them, and without them there is no escape at all."""
    coloured = drawn(going, 80, 24, colour="256")
    assert "\x1b[" in coloured
    bare = drawn(going, 80, 24)
    assert "\x1b" not in bare
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    # The rest of the progress bar is drawn in a colour or not at all.
    assert [row for row in stripped.split("\n") if "━" not in row] == [row for row in bare.split("\n") if "━" not in row]


def test_as_text_all_of_it_is_there_one_part_below_the_other(going):
    shown = plain(going)
    assert max(map(cell_len, shown.splitlines())) <= 80
    places = [
        shown.index(part) for part in ("go-demo", "learning?", "loss  ─", "tokens/s", "checkpoints, store", "samples at step")
    ]
    assert places == sorted(places)
    assert "        fmt.Println(x)" in shown


def test_a_clock_that_is_behind_the_run_s_harms_nothing(going):
    now = BEGAN - 86_400
    shown = plain(going, now=now)
    assert "running" in shown
    assert "-" not in re.search(r"running.*", shown)[0]  # no negative time
    late = plain(going, now=BEGAN + 86_400)
    assert "late" in late
    assert "0 s left" not in late


def test_a_training_loss_does_not_stand_among_validation_losses(tmp_path):
    folder = write_run(tmp_path / "stopped", events(110, evaluate=50))
    for step in (100, 110):  # the second one is that of a Ctrl-C, and was not evaluated
        checkpoint(folder, step)
    stopped, evaluated = (row for row in plain(folder).split("\n") if re.search(r"^ *1[01]0 .*kB", row))
    assert re.search(r"100 +\d\.\d+ +2 kB", evaluated)
    assert re.search(r"110 +2 kB", stopped)
    assert "validation" in plain(folder).split("checkpoints", 1)[1].split("\n")[1]


def test_more_checkpoints_than_room_keep_the_newest_and_the_best(tmp_path):
    logged = events(500, evaluate=20)
    for line in logged:
        if line["step"] == 100 and "eval_loss" in line:
            line["eval_loss"] = 0.5
    folder = write_run(tmp_path / "many", logged)
    for step in range(20, 501, 20):
        checkpoint(folder, step)
    rows = [row for row in drawn(folder, 160, 45).split("\n") if re.search(r"│ +\d+ .*kB", row)]
    assert re.search(r"500 .* ago", rows[0])
    assert re.search(r"100 +0\.500 .*best", rows[-1])
    assert len(rows) < 20


def test_a_long_run_is_drawn_as_a_short_one_of_the_same_shape(tmp_path):
    """Of 30,000 log events as of 300: the same axes, and nothing that takes long at each redrawing."""
    made = {}
    for name, number in (("short", 300), ("long", 30_000)):
        logged = [
            {"step": step * 30_000 // number, "loss": 9.0 - 6.0 * step / number, "time": BEGAN} for step in range(1, number + 1)
        ]
        made[name] = drawn(write_run(tmp_path / name, logged, total=40_000), 80, 24).split("\n")[6:16]
    differing = sum(one != other for one, other in zip("".join(made["short"]), "".join(made["long"]), strict=True))
    assert differing < 40
    begin = [float(rows[1].split()[0]) for rows in made.values()]
    assert begin[0] == pytest.approx(begin[1], rel=0.01)
