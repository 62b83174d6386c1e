"""Curves from lines: in columns, with gaps, torn, taken up again."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from made_runs import eval_line, json_lines, train_line

from llmforge.viewing.curves import Curves
from llmforge.viewing.lines import GrowingLines


def read(*lines) -> Curves:
    curves = Curves()
    curves.add(lines)
    return curves


def points(curves: Curves, name: str) -> list[tuple[int, float]]:
    series = curves.series[name]
    assert len(series.steps) == len(series.values) == len(series.times) == len(series.tokens)
    return list(zip(map(int, series.steps), series.values, strict=True))


def test_each_name_is_a_series_of_its_own():
    curves = read(eval_line(0, 7.0), train_line(5, 6.0), train_line(10, 5.0), eval_line(10, 5.5), train_line(15, 4.0))
    assert points(curves, "loss") == [(5, 6.0), (10, 5.0), (15, 4.0)]
    assert points(curves, "eval_loss") == [(0, 7.0), (10, 5.5)]
    assert list(curves.series["loss"].tokens) == [5000, 10000, 15000]
    assert (curves.step, curves.tokens, curves.epoch) == (15, 15000, 0.15)
    assert curves.series["loss"].times[0] - curves.first_time == 5 - 0.5
    assert "tokens" not in curves.series
    assert "step" not in curves.series


def test_steps_that_go_back_are_a_run_taken_up_again():
    """As where a copy of metrics.jsonl was not trimmed; what was done twice counts once."""
    curves = read(train_line(5, 6.0), train_line(10, 5.0), eval_line(10, 5.5), train_line(15, 4.0), train_line(10, 4.9))
    assert points(curves, "loss") == [(5, 6.0), (10, 4.9)]
    curves.add([train_line(12, 4.5), eval_line(12, 5.0), eval_line(12, 4.8)])
    assert points(curves, "loss") == [(5, 6.0), (10, 4.9), (12, 4.5)]
    assert points(curves, "eval_loss") == [(10, 5.5), (12, 4.8)]


@pytest.mark.parametrize(
    "line",
    [{}, {"loss": 1.0}, {"step": "7", "loss": 1.0}, {"step": True, "loss": 1.0}, {"step": -1, "loss": 1.0}, {"step": 10**400}],
)
def test_a_line_without_a_place_is_left_out(line):
    assert points(read(train_line(5, 6.0), line, train_line(10, 5.0)), "loss") == [(5, 6.0), (10, 5.0)]


def test_a_value_that_is_no_number_is_left_out_and_a_loss_that_diverged_is_kept():
    curves = read(
        {"step": 1, "loss": "low", "x": 1.0}, {"step": 2, "loss": math.nan, "x": None}, {"step": 3, "loss": 10**400, "x": 3}
    )
    assert [step for step, _ in points(curves, "loss")] == [2]
    assert math.isnan(curves.series["loss"].values[0])
    assert points(curves, "x") == [(1, 1.0), (3, 3.0)]
    assert curves.series["x"].lowest() == (1, 1.0)
    assert curves.series["x"].lowest(highest=True) == (3, 3.0)
    assert curves.series["loss"].lowest() is None


def test_a_file_is_read_as_it_grows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = GrowingLines(path)
    assert list(lines.read()) == []
    path.write_text(json_lines(train_line(5)) + '{"step": 10, "lo')
    assert [line["step"] for line in lines.read()] == [5]
    with path.open("a") as file:
        file.write('ss": 2.0}\nnot json\n[1]\n{"step": 15}\n')
    assert [line["step"] for line in lines.read()] == [10, 15]
    assert lines.restarted is False
    assert list(lines.read()) == []


def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path):
    """As `keep_json_lines` does at a resume: the same name, another file, and it may be longer already."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(json_lines(train_line(5), train_line(10)))
    lines = GrowingLines(path)
    assert len(list(lines.read())) == 2
    other = tmp_path / "new"
    other.write_text(json_lines(train_line(5), train_line(6), train_line(7)))
    other.replace(path)
    assert [line["step"] for line in lines.read()] == [5, 6, 7]
    assert lines.restarted is True
    path.write_text(json_lines(train_line(1)))  # in place, and shorter
    assert [line["step"] for line in lines.read()] == [1]


def test_a_line_without_an_end_is_never_held_whole(tmp_path, monkeypatch):
    """As of a disk that failed, or of a file that is none of ours: the next line is read again."""
    monkeypatch.setattr("llmforge.viewing.lines._LONGEST", 1 << 20)
    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 1}\n' + "x" * (40 << 20))
    lines = GrowingLines(path)
    tracemalloc.start()
    try:
        assert [line["step"] for line in lines.read()] == [1]
        assert list(lines.read()) == []
        assert lines.overlong == 1
        with path.open("a") as file:
            file.write('yy\n{"step": 2}\n{"step": 3, "te')
        assert [line["step"] for line in lines.read()] == [2]
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    with path.open("a") as file:
        file.write('xt": 0}\n')
    assert [line["step"] for line in lines.read()] == [3]
    assert lines.overlong == 1
    path.write_text('{"step": 9}\n')  # anew
    assert [line["step"] for line in lines.read()] == [9]
    assert lines.overlong == 0


def test_a_hundred_thousand_lines_are_read_once(tmp_path):
    """What is new is read alone: by far the larger part of a long run's file is not touched again."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 2001)))
    lines, place = GrowingLines(path), path.stat().st_size
    assert len(list(lines.read())) == 2000
    with path.open("r+b") as file:  # what was read already may be anything by now
        file.write(b"x" * (place - 1))
    with path.open("a") as file:
        file.write('{"step": 2001}\n')
    assert [line["step"] for line in lines.read()] == [2001]
