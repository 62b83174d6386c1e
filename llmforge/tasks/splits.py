"""The rows of a fine-tuning: which files they are in, what they are for, and which are held out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.configs.finetune import FinetuneArguments
from llmforge.data.documents import Account
from llmforge.errors import ConfigError, DataError
from llmforge.runtime.logs import logger
from llmforge.tasks.files import find_task, load_task, task_for
from llmforge.tasks.prompts import Prompt
from llmforge.tasks.rows import Row, read_rows, split_rows
from llmforge.tasks.task import Task


@dataclass
class TaskRows:
    """Rows as their files have them.

    Attributes:
        task: What they are for.
        splits: By split; train alone, where the rest is to be split off from it.
        whole: Whether they came split, as `llmforge convert` leaves them or in files of their own.
    """

    task: Task
    splits: dict[str, list[Row]]
    whole: bool

    def validates(self, data: DataArguments) -> bool:
        """Whether there will be rows to evaluate on."""
        return "validation" in self.splits if self.whole else data.ratios()[1] > 0

    def prompts(self, most: int) -> list[Prompt]:
        """The prompts of the first rows that are held out, or of the first ones."""
        rows = self.splits.get("validation") or self.splits["train"]
        return list(dict.fromkeys(self.task.render_prompt(_asked(row), row.where) for row in rows[:most]))


def _asked(row: Row) -> Mapping[str, object]:
    """A row without what answers it: of a chat, its messages up to the last of the assistant's."""
    for key, value in row.values.items():
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            return {**row.values, key: value[:-1]}
    return row.values


def read_task_rows(args: FinetuneArguments, model: Path) -> TaskRows:
    """The rows of ``--train_file`` and its kin, and their task.

    Args:
        args: Files and task.
        model: The folder of the model to start from, which may have a task saved beside it.

    Raises:
        DataError: A file is missing or broken, or a row lacks what the task needs; the line is named.
        ConfigError: No task is given, and nothing tells of one.
    """
    given = Path(args.train_file or "").expanduser()
    files = {"train": given, "validation": _path(args.validation_file), "test": _path(args.test_file)}
    folder = given if given.is_dir() else given.parent
    if given.is_dir():
        for name in SPLITS:
            own = given / f"{name}.jsonl"
            if files[name] in (None, given):
                files[name] = own if name == "train" or own.is_file() else None
        if not (given / "train.jsonl").is_file():
            raise DataError(
                f"--train_file {given}: there is no train.jsonl in that folder.", "Give one that `llmforge convert` made."
            )
    splits = {name: read_row_file(path, f"--{name}_file") for name, path in files.items() if path is not None}
    task = task_of_rows(args.task, splits["train"][0], (folder, model))
    for rows in splits.values():
        for row in rows:
            task.render(row.values, row.where)  # refused here, before anything is tokenized
    whole = len(splits) > 1
    if whole:
        _warn_of_shared(splits, task)
    return TaskRows(task, splits, whole)


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def read_row_file(path: Path, flag: str) -> list[Row]:
    """The rows of a file.

    Raises:
        DataError: It is not there, cannot be read, or has none.
    """
    if not path.is_file():
        raise DataError(f"{flag} {path}: no such file.", "Give a file of rows, or a folder that `llmforge convert` made.")
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{flag} {path} has no rows.", "Give one JSON object a line.")
    return rows


def task_of_rows(given: str | None, first: Row, places: Sequence[Path]) -> Task:
    """The task that rows are for.

    Args:
        given: By ``--task``.
        first: One of the rows, which may tell.
        places: Folders that a task may be saved in.

    Raises:
        ConfigError: There is none, or it cannot be used.
    """
    if given is not None:
        return find_task(given)
    for place in places:
        found = load_task(place)
        if found is not None:
            logger.info("task %s: %s", found.name, place / "task.yaml")
            return found
    known = task_for(first.values)
    if known is None:
        keys = ", ".join(list(first.values)[:8])
        raise ConfigError(f"--task is not given, and {first.where} is of no built-in task: it has {keys}.", "Give --task FILE.")
    logger.info("task %s: by the fields of %s", known.name, first.where)
    return known


def _warn_of_shared(splits: Mapping[str, list[Row]], task: Task) -> None:
    asked = {name: {_squeezed(task.render(row.values, row.where)[0]) for row in rows} for name, rows in splits.items()}
    for name in asked:
        if name != "train" and (shared := len(asked[name] & asked["train"])):
            logger.warning("%d of the %d prompts of the %s rows are in the training rows as well", shared, len(asked[name]), name)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def split_task_rows(rows: TaskRows, data: DataArguments) -> tuple[dict[str, list[Row]], Account]:
    """The rows by split, and what was left out as near-duplicates.

    Raises:
        DataError: A split with a share came out empty.
    """
    dropped = Account()
    if rows.whole or data.ratios()[0] == 1:
        return rows.splits, dropped
    train = rows.splits["train"]
    assignment = split_rows(train, rows.task, data)
    for reason, members in assignment.dropped().items():
        for place in members.tolist():
            dropped.skip(reason, train[place].where)
    return {name: [train[place] for place in members.tolist()] for name, members in assignment.members().items()}, dropped
