"""JSON lines: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import RecordReader, leave_out
from llmforge.data.formats.streams import MAX_RECORD, Utf8Stream, lines


def read(file: BinaryIO, name: str, source: Source, account: Account, first_line: int = 1) -> Iterator[Document]:
    """The documents of a JSONL file or of a part of one, each called ``name:line``.

    Only ``\\n`` ends a line. A line that is no JSON, or too long to be held, is counted, and the next one read.

    Args:
        file: Binary, positioned where a line begins; its end is the end of what is read.
        name: What the file is called.
        source: Where in a record its text is.
        account: Counts what is left out.
        first_line: Number, from 1, of the first line in the file; a byte-order mark is looked for in line 1 alone.

    Raises:
        DataError: A broken line, and the source is strict.
        ConfigError: The template cannot be used.
    """
    reader = RecordReader(source, account)
    # UTF-16 cannot be cut at bytes, so that it is a stream of UTF-8 before lines are looked for.
    stream = Utf8Stream(file, replace=False) if first_line == 1 else file
    for number, line in enumerate(lines(stream), start=first_line):  # type: ignore[arg-type]
        where = f"{name}:{number}"
        if line is None:
            leave_out(source, account, f"line longer than {MAX_RECORD // 2**20} MB", where)
            continue
        if not line or line.isspace():
            continue
        replaced = False
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text, replaced = line.decode(errors="replace"), True
        try:
            record = json.loads(text)
        except ValueError:
            leave_out(source, account, "line that is no JSON", where)
            continue
        except RecursionError:
            leave_out(source, account, "line that is nested too deeply", where)
            continue
        document = reader.document(record, where, replaced)
        if document is not None:
            yield document
