"""The rows of a task: read from files with the number of each line, and split so that nothing is shared."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from llmforge.configs.data import DataArguments
from llmforge.data.dedup import signatures, text_hash
from llmforge.data.splits import Assignment, assign, split_position
from llmforge.errors import DataError
from llmforge.tasks.fields import messages
from llmforge.tasks.task import Task

#: Texts whose signatures are made together.
_TOGETHER = 256


class Row(NamedTuple):
    """A row, and what messages call it: ``train.jsonl:3``."""

    where: str
    values: dict[str, Any]


def refuse(where: str, reason: str) -> NoReturn:
    """Stop at a row that cannot be used.

    Raises:
        DataError: Always.
    """
    raise DataError(f"{where}: {reason}.", "Mend it, or leave it out.")


def read_text_file(path: Path) -> str:
    """The text of a file, in UTF-8 with or without a byte-order mark.

    Raises:
        DataError: It cannot be read; where it is no UTF-8, the line is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Give another file.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: this is not UTF-8 (byte 0x{data[error.start]:02x}).", "Save the file as UTF-8."
        ) from None


def read_rows(path: Path, broken: Callable[[str, str], None] = refuse) -> Iterator[Row]:
    """The rows of a file of JSON lines, a JSON list (``.json``) or CSV with a heading (``.csv``).

    Args:
        path: The file.
        broken: Is told where something is no row, and why.

    Raises:
        DataError: The file cannot be read; or what `broken` raises.
    """
    text = read_text_file(path)
    if path.suffix == ".csv":
        yield from _csv_rows(text, path, broken)
        return
    if path.suffix == ".json":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: no JSON: {error}.", "Give a list of objects, or JSON lines in a .jsonl file.") from None
        items = whole if isinstance(whole, list) else [whole]
        found: list[tuple[str, Any]] = [(f"{path.name}[{place}]", item) for place, item in enumerate(items)]
    else:
        found = []
        for number, line in enumerate(text.split("\n"), start=1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                found.append((where, json.loads(line)))
            except (ValueError, RecursionError):
                broken(where, "line that is no JSON")
    for where, item in found:
        if isinstance(item, dict):
            yield Row(where, item)
        else:
            broken(where, "record that is no object with fields")


def _csv_rows(text: str, path: Path, broken: Callable[[str, str], None]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    last = 1
    try:
        for record in reader:
            where, last = f"{path.name}:{last + 1}", reader.line_num
            if None in record or any(value is None for value in record.values()):
                broken(where, f"row with another number of columns than the {len(reader.fieldnames or ())} of the heading")
            else:
                yield Row(where, {str(name): value for name, value in record.items() if str(value).strip()})
    except csv.Error as error:
        raise DataError(f"{path.name}:{reader.line_num}: {error}.", "Mend the file.") from None


def bare_text(task: Task, values: Mapping[str, Any], where: str) -> str:
    """What a row says, without what its templates say in every row: rows are near-duplicates by this."""
    if task.kind == "chat":
        return "\n".join(message["content"] for message in messages(values, where))
    return "\n".join(str(value) for value in task.values(values, where).values() if value)


def split_rows(rows: Sequence[Row], task: Task, args: DataArguments) -> Assignment:
    """Which split each row belongs to, or why it is left out: no prompt and no near-duplicate stands in two.

    Args:
        rows: All of them can be rendered.
        task: Renders them.
        args: Ratios, seed and thresholds.

    Raises:
        DataError: A split with a share came out empty.
    """
    rendered = [task.render(row.values, row.where) for row in rows]
    prompts = [re.sub(r"\s+", " ", prompt).strip().casefold() for prompt, _ in rendered]
    hashes = np.frombuffer(b"".join(text_hash("\n".join(pair)) for pair in rendered), dtype=np.uint64).reshape(-1, 2)
    positions = np.array([split_position(prompt, args.split_seed) for prompt in prompts])
    texts = [bare_text(task, row.values, row.where) for row in rows]
    found = [signatures(texts[start : start + _TOGETHER], args.dedup_shingle) for start in range(0, len(texts), _TOGETHER)]
    return assign(args, positions, hashes, np.concatenate(found))
