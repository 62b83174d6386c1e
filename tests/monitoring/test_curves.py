"""Curves in characters: in their box, in the right place, and told apart without colours."""

from __future__ import annotations

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmforge.monitoring.curves import Curves, Line
from llmforge.monitoring.encoding import fit


def drawn(lines: list[Line], width: int = 60, height: int = 10, **more) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Curves(lines, height=height, **more), end="")
    return console.file.getvalue().rstrip("\n").split("\n")


def place(rows: list[str]) -> list[tuple[int, int]]:
    """Row and column, behind the axis, of every character with ink."""
    found = []
    for number, row in enumerate(rows[:-1]):
        begin = max(row.find("│"), row.find("┤")) + 1
        found += [(number, column) for column, character in enumerate(row[begin:]) if character.strip()]
    return found


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right():
    rows = drawn([Line([(0, 10.0), (100, 2.0)], "blue")])
    cells = place(rows)
    assert min(cells)[0] == 0
    assert max(cells)[0] == 8
    columns = [column for _, column in sorted(cells)]
    assert columns == sorted(columns)
    assert rows[-1].split() == ["0", "50", "100"]
    ticks = [float(row.split()[0]) for row in rows[:-1] if "┤" in row]
    assert ticks == sorted(ticks, reverse=True)
    assert 9 < ticks[0] < 10.5
    assert 1.5 < ticks[-1] < 3


def test_the_newest_value_is_in_the_last_column_and_a_mark_is_where_its_value_is():
    rows = drawn([Line([(0, 4.0), (10, 4.0), (100, 0.0)], "blue"), Line([(50, 4.0), (100, 0.0)], "red", marks=True)])
    assert rows[0].count("o") == 1
    assert rows[-2].endswith("o")
    assert len(rows[-2]) == 60


@pytest.mark.parametrize(("width", "height"), [(16, 3), (20, 4), (40, 8), (130, 30), (500, 60)])
def test_nothing_leaves_the_box(width, height):
    points = [(step, 1e-4 * step * math.sin(step) + 5) for step in range(0, 20_000, 10)]
    rows = drawn([Line(points, "blue"), Line(points[::50], "red", marks=True)], width, height)
    assert len(rows) == height
    assert max(map(cell_len, rows)) <= width


@pytest.mark.parametrize(
    "points", [[(5, 3.0)], [(0, 3.0), (100, 3.0)], [(5, 0.0), (5, 0.0)], [(1, 1e300), (2, -1e300)], [(1, 5e-324), (2, 0.0)]]
)
def test_values_without_a_range_are_drawn(points):
    rows = drawn([Line(points, "blue")])
    assert len(rows) == 10
    assert place(rows)


def test_what_is_no_number_leaves_a_gap_and_nothing_is_said_to_be_nothing():
    gap = drawn([Line([(0, 2.0), (40, 2.0), (50, math.nan), (55, math.inf), (60, 1.0), (100, 1.0)], "blue")])
    assert all("nan" not in row and "inf" not in row for row in gap)
    assert "nothing logged yet" in "".join(drawn([Line([(1, math.nan)], "blue")]))


def test_a_steep_start_leaves_room_for_what_follows():
    points = [(step, 8.0 if step < 20 else 3.0 - step / 4000) for step in range(0, 1000, 5)]
    ticks = [float(row.split()[0]) for row in drawn([Line(points, "blue")])[:-1] if "┤" in row]
    assert ticks[0] < 3.2


def test_a_lonely_spike_leaves_at_the_top_and_leaves_the_rest_its_height():
    points = [(step, 90.0 if step == 600 else 3.0 - step / 500) for step in range(0, 1000, 10)]
    rows = drawn([Line(points, "blue")], width=230)
    assert float(rows[0].split()[0]) < 10
    top = [column for row, column in place(rows) if row == 0]
    assert any(125 < column < 140 for column in top)  # of 222: it is seen
    rest = [row for row, column in place(rows) if not 125 < column < 140]
    assert max(rest) - min(rest) >= 3


def test_where_the_line_goes_now_is_always_in_the_picture():
    points = [(step, 3.0 if step < 990 else 88.0) for step in range(0, 1000, 10)]
    rows = drawn([Line(points, "blue")])
    assert float(rows[0].split()[0]) > 80
    assert rows[0][-2:].strip()


def test_a_wide_span_has_a_logarithmic_axis():
    points = [(step, 10.0 ** (4 - step / 25)) for step in range(0, 101)]
    cells = {column: row for row, column in place(drawn([Line(points, "blue")], logarithmic=None))}
    assert abs(cells[max(cells) // 2] - 4) <= 1  # a straight line: half way down in the middle


def test_many_marks_do_not_hide_the_line():
    points = [(float(step), 5 - step / 300) for step in range(0, 1000, 2)]
    rows = "\n".join(drawn([Line(points, "blue"), Line(points, "red", marks=True)]))
    assert rows.count("o") < 20
    assert sum("\u2801" <= character <= "\u28ff" for character in rows) > 20


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_where_there_is_no_braille_there_are_other_characters(encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    fit(file)
    Console(file=file, width=60, color_system=None).print(Curves([Line([(0, 10.0), (100, 2.0)], "blue")], height=10))
    file.write("好 ° ⏎ é")
    file.flush()
    text = raw.getvalue().decode(encoding)
    rows = text.split("\n")
    assert {len(row) for row in rows[:9]} == {60}
    assert len([row for row in rows[:9] if set("'-.|:") & set(row.partition("+")[2] or row.partition("|")[2])]) == 9
    assert rows[-1].startswith("?? ")
