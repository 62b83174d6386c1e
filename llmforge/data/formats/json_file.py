"""JSON files: an array of records, an object that holds one, or one record; a long array is never held as a whole."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import RecordReader, leave_out, optional_fields, required_fields
from llmforge.data.formats.streams import MAX_RECORD, REPLACED, Utf8Stream

_CHUNK = 2**18
_SPACE = " \t\n\r"
#: An error so near to the end of what was read may be one of a value that goes on: ``tru``, ``\\ud8``.
_NEAR_END = 12


class _Broken(Exception):
    """What the rest of the file is left out for."""


def read(file: BinaryIO, name: str, source: Source, account: Account) -> Iterator[Document]:
    """The documents of a JSON file, called ``name#number`` from 1, or ``name`` where it is one record.

    An object is one record if it has a field that the source names. Else its only array of objects holds the
    records. Values one after the other, which is JSON lines under another suffix, are records too.

    Args:
        file: Binary, at the start; seekable, as an object is looked through before it is read.
        name: What the file is called.
        source: Where in a record its text is.
        account: Counts what is left out; what follows broken JSON is lost, and is counted once.

    Raises:
        DataError: Something broken, and the source is strict.
        ConfigError: The template cannot be used.
    """
    reader = RecordReader(source, account)
    start, number, alone = file.tell(), 0, False
    scanner = _Scanner(file)
    try:
        if scanner.peek() == "[":
            records = _elements(scanner)
        else:
            wanted = {
                part for path in [*required_fields(source), *optional_fields(source)] for part in (path, path.split(".")[0])
            }
            key = _key_of_records(scanner, wanted) if scanner.peek() == "{" else None
            file.seek(start)
            scanner = _Scanner(file)
            records = _values(scanner) if key is None else _values_under(scanner, key)
            alone = key is None
        for number, record in enumerate(records, start=1):
            one = alone and number == 1 and not scanner.peek()
            document = reader.document(record, name if one else f"{name}#{number}")
            if document is not None:
                yield document
    except _Broken as error:
        leave_out(source, account, str(error), f"{name} after record {number}")
    else:
        if number == 0:
            account.skip("empty", name)
    account.changed.update([REPLACED] if scanner.stream.replaced else [])


def _elements(scanner: _Scanner) -> Iterator[Any]:
    """What the top-level arrays hold; there is one, mostly."""
    while scanner.peek():
        yield from scanner.array()


def _values(scanner: _Scanner) -> Iterator[Any]:
    while scanner.peek():
        yield scanner.value()


def _values_under(scanner: _Scanner, wanted: str) -> Iterator[Any]:
    for key in scanner.fields():
        if key == wanted:
            yield from scanner.array()
        else:
            scanner.value()
    if scanner.peek():
        raise _Broken("JSON with something behind its end")


def _key_of_records(scanner: _Scanner, wanted: set[str]) -> str | None:
    """The key of the only array of objects in an object that is not itself a record; None if it is one."""
    arrays = []
    for key in scanner.fields():
        if key in wanted:
            return None
        if scanner.peek() != "[":
            scanner.value()
            continue
        objects = False
        for element in scanner.array():
            objects = objects or isinstance(element, dict)
        arrays += [key] if objects else []
    if len(arrays) > 1:
        raise _Broken("object with more than one array of records")
    return arrays[0] if arrays else None


class _Scanner:
    """Values of a JSON text, one by one, with no more than `MAX_RECORD` characters held."""

    def __init__(self, file: BinaryIO):
        self.stream = Utf8Stream(file)
        self._characters = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def value(self) -> Any:
        """The value that begins here.

        Raises:
            _Broken: There is none, or it is longer than `MAX_RECORD` or nested too deeply.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _NEAR_END
                if self._ended or not goes_on:
                    raise _Broken("broken JSON, with what follows it") from None
            except ValueError:  # a number of thousands of digits
                raise _Broken("broken JSON, with what follows it") from None
            except RecursionError:
                raise _Broken("JSON that is nested too deeply, with what follows it") from None
            else:
                if end < len(self._text) or self._ended:  # a number at the end of what was read may go on
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_RECORD:
                raise _Broken(f"record longer than {MAX_RECORD // 2**20} MB, with what follows it")
            self._more()

    def array(self) -> Iterator[Any]:
        """The elements of the array that begins here."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self._take(",", "]") == "]":
                return

    def fields(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller takes each one's value before it asks for the next."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            if self.peek() != '"':
                raise _Broken("broken JSON, with what follows it")
            key = self.value()
            self._take(":")
            yield key
            if self._take(",", "}") == "}":
                return

    def _take(self, *expected: str) -> str:
        found = self.peek()
        if found not in expected:
            raise _Broken("broken JSON, with what follows it")
        self._at += 1
        return found

    def _more(self) -> None:
        # As much again as is held: a long value is tried a few times, not once a chunk.
        held = self._text[self._at :]
        data = b""
        for _ in range(max(1, len(held) // _CHUNK)):
            chunk = self.stream.read(_CHUNK) or b""
            self._ended = not chunk
            data += chunk
        self._text, self._at = held + self._characters.decode(data, self._ended), 0
