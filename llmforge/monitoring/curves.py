"""Curves in a terminal: lines of braille dots, with axes, in whatever room there is.

Without colours the validation is still told from the training, by its marks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from plotille import Canvas
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from llmforge.monitoring.brief import figure
from llmforge.viewing.words import count

Points = list[tuple[float, float]]

#: The first part of a run is steeper than all that follows: some of it may leave the picture at the top once there are
#: so many points, and the rest of it fills less than this part of the height.
_HEAD_FROM, _HEAD_ROOM = 10, 0.6
#: A spike is shown in full up to so many times the height of nine tenths of the values.
_SPIKE_ROOM = 2.0
#: A logarithmic axis where the largest value is more than so many times the smallest.
_WIDE = 20
_MARK = "o"
#: Columns from one mark to the next, at least: closer ones would hide the line below them.
_MARK_SPACE = 3
#: Braille without a dot, which some fonts draw.
_BLANK = "\u2800"


@dataclass(frozen=True)
class Line:
    """What is drawn of one quantity.

    Attributes:
        points: Steps and values, by step; values that are not finite are left out. A column is the mean of what falls
            into it.
        style: Its colour, as rich names it.
        marks: Values have marks on the line, as for evaluations, which are few.
        label: For the legend; empty for none.
    """

    points: Sequence[tuple[float, float]]
    style: str
    marks: bool = False
    label: str = ""


class Curves:
    """A picture of lines over steps, as wide and as high as where it is put.

    Args:
        lines: Those without marks are drawn on top.
        logarithmic: Whether the values span so much that only a logarithmic axis shows them; by itself where None.
        form: How a value is written at the axis.
        floor: Where the axis begins, where noise is not to look like more than it is.
        head: The part of the steps at the start that may leave the picture at the top.
        height: Rows, where the place has no height of its own.
        empty: What is said where there is no point.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        logarithmic: bool | None = False,
        form: Callable[[float], str] = figure,
        floor: float | None = None,
        head: float = 0.05,
        height: int = 12,
        empty: str = "nothing logged yet",
    ):
        self.lines = [Line(_finite(line.points), line.style, line.marks, line.label) for line in lines]
        self.logarithmic = logarithmic
        self.form = form
        self.floor = floor
        self.head = head
        self.height = height
        self.empty = empty

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or self.height
        points = [point for line in self.lines for point in line.points]
        if width < 16 or height < 3 or not points:
            yield from _words(self.empty if not points else "", width, height)
            return
        values = _range([list(line.points) for line in self.lines], points, self.head)
        if self.floor is not None:
            values = min(values[0], self.floor), values[1]
        wide = self.logarithmic
        if wide is None:
            wide = values[0] > 0 and values[1] > _WIDE * values[0]
        wide = bool(wide) and values[0] > 0
        scale: Callable[[float], float] = math.log if wide else float
        low, high = _roomy(scale(values[0]), scale(values[1]))
        rows = height - 1
        first, last = min(x for x, _ in points), max(x for x, _ in points)
        first = 0.0 if 0 < first < 0.1 * last else first
        ticks = {row: self.form(_value(low, high, row, rows, wide)) for row in _tick_rows(rows)}
        margin = max(cell_len(text) for text in ticks.values())
        box = _Box(width - margin - 2, rows, first, last if last > first else first + 1, low, high)
        cells = box.drawn(self.lines, scale)
        dim = Style(dim=True)
        for row in range(rows):
            text = ticks.get(row, "")
            yield Segment(f"{text:>{margin}} {'┤' if row in ticks else '│'}", dim)
            yield from cells[row]
            yield Segment.line()
        yield Segment(" " * (margin + 2) + _steps(first, last, width - margin - 2), dim)
        yield Segment.line()


def _words(text: str, width: int, height: int) -> Iterator[Segment]:
    for row in range(height):
        yield Segment(f"{text[:width]:^{width}}" if row == height // 2 else " " * width, Style(dim=True))
        yield Segment.line()


def _finite(points: Sequence[tuple[float, float]]) -> Points:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _range(lines: Sequence[Points], points: Points, head: float) -> tuple[float, float]:
    """Lowest and highest value to show.

    All of them, but of a long line neither a steep start nor lonely spikes, which leave at the top: they would leave no
    height for the rest. Where it goes now is always to be seen.
    """
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    later = sorted(y for x, y in points if x > first + head * (last - first))
    if max(map(len, lines)) < _HEAD_FROM or not later:
        return low, high
    usual = later[int(0.9 * (len(later) - 1))]
    seen = max(min(later[-1], usual + _SPIKE_ROOM * (usual - later[0])), *(line[-1][1] for line in lines if line))
    lowest = min(later[0], *(line[-1][1] for line in lines if line))
    return (lowest, seen) if seen - lowest < _HEAD_ROOM * (high - low) else (low, high)


def _roomy(low: float, high: float) -> tuple[float, float]:
    """The limits with a little air; of a constant, some around it."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - 0.02 * (high - low), high + 0.04 * (high - low)


def _tick_rows(rows: int) -> list[int]:
    """Rows with a value at the axis: top, bottom, and between them about every third."""
    between = max((rows - 1) // 3, 1)
    return sorted({round(number * (rows - 1) / between) for number in range(between + 1)})


def _value(low: float, high: float, row: int, rows: int, wide: bool) -> float:
    """The value in the middle of a row."""
    level = high - (row + 0.5) * (high - low) / rows
    return math.exp(level) if wide else level


def _steps(first: float, last: float, width: int) -> str:
    """The axis of steps: first, middle and last."""
    left, middle, right = count(first), count(round((first + last) / 2)), count(last)
    room = width - len(left) - len(right)
    if room < 1:
        return right.rjust(width)[:width]
    if room < len(middle) + 4:
        return left + " " * room + right
    begin = (width - len(middle)) // 2 - len(left)
    begin = max(min(begin, room - len(middle) - 1), 1)
    return left + " " * begin + middle + " " * (room - begin - len(middle)) + right


@dataclass(frozen=True)
class _Box:
    """The plane that is drawn in: its size in characters, and the steps and (scaled) values at its borders."""

    width: int
    height: int
    first: float
    last: float
    low: float
    high: float

    def drawn(self, lines: Sequence[Line], scale: Callable[[float], float]) -> list[list[Segment]]:
        """Each row as styled characters."""
        grid = [[(" ", "")] * self.width for _ in range(self.height)]
        scaled = [(line, [(x, scale(y)) for x, y in line.points if scale is float or y > 0]) for line in lines]
        # What has marks lies below the others: it is told by the marks where they run together.
        for line, points in sorted(scaled, key=lambda item: not item[0].marks):
            for row, text in enumerate(self._line(points)):
                for column, character in enumerate(text):
                    if character not in (" ", _BLANK):
                        grid[row][column] = (character, line.style)
        for line, points in scaled:
            before = self.width + _MARK_SPACE  # from the newest backwards, which is always there
            for x, y in reversed(points if line.marks else []):
                column, row = self._cell(x, y)
                if 0 <= row < self.height and before - column >= _MARK_SPACE:
                    grid[row][column], before = (_MARK, line.style), column
        # One escape for characters of one colour side by side: over a slow line each redrawing counts.
        return [
            [Segment("".join(item[0] for item in part), Style.parse(style)) for style, part in groupby(row, key=itemgetter(1))]
            for row in grid
        ]

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of a point, by the dot that the canvas has for it."""
        column = int((x - self.first) / (self.last - self.first) * 2 * self.width) // 2
        dot = round((y - self.low) / (self.high - self.low) * 4 * self.height)
        return min(column, self.width - 1), self.height - 1 - dot // 4

    def _line(self, points: Points) -> list[str]:
        """A line in braille, a text a row."""
        canvas = Canvas(self.width, self.height, self.first, self.low, self.last, self.high)
        # The canvas leaves its right border out, which is where the newest value is.
        dot = (self.last - self.first) / (2 * self.width)
        before: tuple[float, float] | None = None
        for x, y in _by_column(points, self.first, dot, 2 * self.width - 1):
            here = (self.first + x * dot, y)
            if before is None:
                canvas.point(*here)
            else:
                canvas.line(*self._clipped(before), *self._clipped(here))
            before = here
        return canvas.plot("\n").split("\n")

    def _clipped(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point far outside would be walked to dot by dot."""
        room = self.high - self.low
        return point[0], min(max(point[1], self.low - room), self.high + room)


def _by_column(points: Points, first: float, dot: float, last_column: int) -> Iterator[tuple[int, float]]:
    """The mean of the values in each column of dots."""
    column, total, number = -1, 0.0, 0
    for x, y in points:
        place = min(int((x - first) / dot), last_column)
        if place != column and number:
            yield column, total / number
            total, number = 0.0, 0
        column, total, number = place, total + y, number + 1
    if number:
        yield column, total / number
