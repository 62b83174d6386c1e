"""CSV and its kin: a header row, then a record a row."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import RecordReader, leave_out, no_field, required_fields
from llmforge.data.formats.streams import MAX_RECORD, REPLACED, Utf8Stream

_DELIMITERS = (",", ";", "\t", "|")
_TAB_SUFFIXES = (".tsv", ".tab")
#: The header is looked for in so many lines; it may have line ends inside quotes.
_HEADER_LINES = 20
#: A part of what Python's csv says → what that is counted as.
_REASONS = {
    "unexpected end of data": "quote that is never closed, with what follows it",
    "expected after": "row with a quote inside a quoted field",
}


def read(file: BinaryIO, name: str, source: Source, account: Account) -> Iterator[Document]:
    """The documents of a CSV or TSV file, each called ``name:line`` by the line that its row begins in.

    The first row is the header. The delimiter is a tab for ``.tsv``, else the one of ``, ; tab |`` that gives a
    header with the columns asked for. A row of more or fewer columns than the header is counted and left out.

    Args:
        file: Binary, at the start.
        name: What the file is called; its suffix counts.
        source: Which columns hold the text.
        account: Counts what is left out.

    Raises:
        DataError: The header lacks a column that is asked for; or a broken row, and the source is strict.
        ConfigError: The template cannot be used.
    """
    reader = RecordReader(source, account)
    stream = Utf8Stream(file)
    lines = _Lines(io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8", newline=""))
    csv.field_size_limit(MAX_RECORD)  # the whole process's; nothing else in the library reads CSV
    first = list(itertools.islice(lines, _HEADER_LINES))
    if any(line.strip() for line in first):
        delimiter, spaced = _dialect(first, name, source)
        rows = csv.reader(itertools.chain(first, lines), delimiter=delimiter, skipinitialspace=spaced, strict=True)
        yield from _documents(rows, name, source, account, reader)
    elif not lines.too_long:
        account.skip("empty", name)
    if lines.too_long:
        reason = f"line longer than {MAX_RECORD // 2**20} MB, with what follows it"
        leave_out(source, account, reason, f"{name}:{lines.count + 1}")
    account.changed.update([REPLACED] if stream.replaced else [])


def _documents(rows: Any, name: str, source: Source, account: Account, reader: RecordReader) -> Iterator[Document]:
    header: list[str] = []
    while True:
        where = f"{name}:{rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            if "field larger than field limit" in str(error):  # in the middle of it, so that no row's beginning is known
                leave_out(source, account, f"field longer than {MAX_RECORD // 2**20} MB, with what follows it", where)
                return
            reason = next((reason for part, reason in _REASONS.items() if part in str(error)), "broken row")
            leave_out(source, account, reason, where)
            continue
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = [column.strip() for column in row]
        elif len(row) != len(header):
            how = "few" if len(row) < len(header) else "many"
            leave_out(source, account, f"row with too {how} columns", where, f"{len(row)}, not {len(header)}")
        elif (document := reader.document(dict(zip(header, row, strict=True)), where)) is not None:
            yield document


class _Lines:
    """Whole lines with whichever end they have, which csv wants; they end before one that is longer than is held."""

    def __init__(self, text: io.TextIOWrapper):
        self._text = text
        self.count = 0
        self.too_long = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = "" if self.too_long else self._text.readline(MAX_RECORD)
        self.too_long |= len(line) == MAX_RECORD and line[-1] not in "\r\n"
        if not line or self.too_long:
            raise StopIteration
        self.count += 1
        return line


def _dialect(first: list[str], name: str, source: Source) -> tuple[str, bool]:
    """The delimiter, and whether blanks follow it.

    `csv.Sniffer` goes by how often characters occur, which prose upsets; what the header must hold is known here.

    Raises:
        DataError: No delimiter gives a header that has the columns.
    """
    wanted = required_fields(source)
    best: list[str] = []
    for delimiter in "\t" if name.lower().endswith(_TAB_SUFFIXES) else _DELIMITERS:
        try:
            columns = next((row for row in csv.reader(first, delimiter=delimiter, skipinitialspace=True) if row), [])
        except csv.Error:
            continue
        columns = [column.strip() for column in columns]
        if all(path in columns or path.split(".")[0] in columns for path in wanted):
            spaced = any(f"{delimiter} " in line for line in first[:1])
            return delimiter, spaced
        best = max(best, columns, key=len)
    missing = next(path for path in wanted if path not in best)
    no_field(source, name, missing, best)
