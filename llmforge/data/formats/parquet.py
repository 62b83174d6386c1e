"""Parquet files: a record a row, of which only the columns asked for are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import (
    RecordReader,
    leave_out,
    no_field,
    optional_fields,
    required_fields,
    uses_whole_record,
)

#: Rows that are held as Python objects at a time.
_BATCH_ROWS = 64
#: Bytes of a column that are read from the file at a time; else a whole row group's are.
_BUFFER = 2**20


def read(file: BinaryIO, name: str, source: Source, account: Account) -> Iterator[Document]:
    """The documents of a Parquet file, each called ``name#row`` from 1.

    Args:
        file: Binary and seekable.
        name: What the file is called.
        source: Which columns hold the text; ``a.b`` is a field of a nested column.
        account: Counts what is left out; a file that breaks in the middle gives the rows before.

    Raises:
        DataError: There is no such column; or the file or a row is broken, and the source is strict.
        ConfigError: The template cannot be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = RecordReader(source, account)
    number = 0
    try:
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
        columns = _columns(parquet.schema_arrow, name, source)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False):
            for record in _rows(batch):
                number += 1
                where = f"{name}#{number}"
                if record is None:
                    leave_out(source, account, "record that is no UTF-8", where)
                elif (document := reader.document(record, where)) is not None:
                    yield document
    except (pa.ArrowException, OSError) as error:
        detail = ascii(str(error).splitlines()[0][:200])[1:-1] if str(error) else ""
        where = f"{name} after row {number}" if number else name
        leave_out(source, account, "broken Parquet file", where, detail)


def _columns(schema: Any, name: str, source: Source) -> list[str] | None:
    """What to read, as Parquet's dotted names; None for everything."""
    paths = [_leaf(schema, path) for path in required_fields(source)]
    for path, found in zip(required_fields(source), paths, strict=True):
        if found is None:
            no_field(source, name, path, _names(schema))
    paths += [_leaf(schema, path) for path in optional_fields(source)]
    return None if uses_whole_record(source) else sorted({path for path in paths if path is not None})


def _leaf(schema: Any, path: str) -> str | None:
    """The part of `path` that the schema knows: all of it, or as far as structs go; None where it is not there."""
    import pyarrow as pa

    if path in schema.names:
        return path
    parts = path.split(".")
    if parts[0] not in schema.names:
        return None
    kind = schema.field(parts[0]).type
    for count, part in enumerate(parts[1:], start=1):
        if not pa.types.is_struct(kind):
            return ".".join(parts[:count])  # a list, whose elements are found in the record
        if kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return path


def _names(schema: Any) -> list[str]:
    import pyarrow as pa

    names = []
    for field in schema:
        inner = [kid.name for kid in field.type] if pa.types.is_struct(field.type) else []
        names += [f"{field.name}.{kid}" for kid in inner] or [field.name]
    return names


def _rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one with bytes that are no UTF-8, which Parquet does not forbid."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield None
