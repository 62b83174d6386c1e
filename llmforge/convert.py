"""llmforge convert diagnostics.txt data/diagnostics --task diagnostics.yaml

Scenario text (``Equipment:``, ``Symptom:``, … in blocks), questions with answers or chats → ``train.jsonl``,
``validation.jsonl`` and ``test.jsonl``, which share no prompt and no near-duplicate, with the task beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.data.documents import Account
from llmforge.data.splits import REASONS
from llmforge.errors import ConfigError, DataError
from llmforge.runtime.commands import CommandParser, run_command
from llmforge.runtime.logs import console, printable, set_up_logging
from llmforge.storage.files import new_file
from llmforge.tasks.fields import messages
from llmforge.tasks.files import BUILT_IN, find_task, task_for
from llmforge.tasks.rows import Row, read_rows, read_text_file, split_rows
from llmforge.tasks.scenarios import parse_scenarios
from llmforge.tasks.task import TASK_FILE, Task

_ROW_FILES = (".jsonl", ".json", ".csv")


@dataclass
class Converted:
    """What came of a conversion.

    Attributes:
        folder: Where the files are.
        task: What the rows are for.
        splits: Rows by split.
        account: What was left out, with examples by file and line, and notes on what was not understood.
        read: Scenarios, or rows, that were found.
    """

    folder: Path
    task: Task
    splits: dict[str, int] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    read: int = 0

    def as_json(self) -> dict[str, Any]:
        """The same in plain values."""
        counts = sorted(self.account.skipped.items())
        dropped = {reason: {"count": count, "examples": self.account.examples[reason]} for reason, count in counts}
        return {"path": str(self.folder), "task": self.task.name, "read": self.read, "splits": self.splits, "dropped": dropped}


def convert_scenarios(source: Path, folder: Path, task: Task | None, args: DataArguments, strict: bool = False) -> Converted:
    """Write the rows in `source`, a file or a folder of files, as JSON lines into `folder`.

    Args:
        source: ``.jsonl``, ``.json`` and ``.csv`` files hold rows; others are scenario text, in a folder ``.txt`` alone.
        folder: Made if it is not there; a file of the same name is replaced. Inside `source`, what lies in it is not read.
        task: What the rows are for; None finds the built-in task that the first row's fields are those of.
        args: Ratios, seed and the thresholds of near-duplicates.
        strict: Stop at the first scenario that cannot be used, instead of counting it.

    Raises:
        DataError: Nothing can be read, no row is left, a split comes out empty; or what `strict` stops at.
        ConfigError: No task is given, and the rows tell of none; or `source` would be written over.
        StorageError: Nothing could be written.
    """
    _refuse_own_input(source, folder)
    result = Converted(folder, task or BUILT_IN["qa"])  # the latter until the rows have told
    rows = _read(source, task, result, strict)
    kept: list[Row] = []
    for row in rows:
        try:
            result.task.render(row.values, row.where)
        except DataError as error:
            _leave_out(result, strict, error.problem.removeprefix(f"{row.where}: ").rstrip("."), row.where)
        else:
            kept.append(row)
    result.read += len(rows)
    if not kept:
        reasons = "; ".join(line for line in result.account.lines()[:3])
        raise DataError(
            f"{source} has no scenario that the task {result.task.name} can use{f': {reasons}' if reasons else ''}.",
            "Look at its fields and aliases: they are the names before the colons.",
        )
    assignment = split_rows(kept, result.task, args)
    for reason, members in assignment.dropped().items():
        for place in members.tolist():
            result.account.skip(reason, kept[place].where)
    splits = {name: [kept[place] for place in indices.tolist()] for name, indices in assignment.members().items()}
    result.splits = {name: len(rows) for name, rows in splits.items()}
    _write(folder, splits, result.task)
    return result


def _read(source: Path, task: Task | None, result: Converted, strict: bool) -> list[Row]:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.", "Give the file with the scenarios.")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if source.is_dir():
        files = [path for path in files if path.suffix in (*_ROW_FILES, ".txt") and not _is_hidden(path.relative_to(source))]
        out = result.folder.resolve()
        if out.is_relative_to(source.resolve()):  # it may hold an earlier conversion
            files = [path for path in files if not path.resolve().is_relative_to(out)]
    rows: list[Row] = []
    for path in files:
        if path.suffix in _ROW_FILES:
            rows += read_rows(path, lambda where, reason: _leave_out(result, strict, reason, where, read=1))
            continue
        if task is None:
            raise ConfigError(f"{path} is text, and --task says not what its fields are.", "Give --task FILE, qa or chat.")
        for scenario in parse_scenarios(read_text_file(path), task):
            where = f"{path.name}:{scenario.line}"
            for name, line in scenario.left_out:
                _leave_out(result, strict, f"{name!r}, which the task has no field for", f"{path.name}:{line}")
            if scenario.problem:
                _leave_out(result, strict, scenario.problem, f"{path.name}:{scenario.problem_line}", read=1)
            elif scenario.row.get("messages") or (scenario.row and task.kind != "chat"):
                rows.append(Row(where, scenario.row))
    if task is None and rows:
        found = task_for(rows[0].values)
        if found is None:
            known = ", ".join(list(rows[0].values)[:8])
            raise ConfigError(f"{rows[0].where} is of no built-in task; it has {known}.", "Give --task FILE.")
        result.task = found
    return rows


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _leave_out(result: Converted, strict: bool, reason: str, where: str, read: int = 0) -> None:
    if strict:
        raise DataError(f"{where}: {reason}.", "Mend it, or leave --strict out to have it counted.")
    result.read += read
    result.account.skip(reason, where)


def _write(folder: Path, splits: dict[str, list[Row]], task: Task) -> None:
    """Write the splits and the task, all or none: the training split, which rows are looked for by, goes first and comes last."""
    train = _file_of(folder, "train")
    with contextlib.ExitStack() as placing:  # in whose reverse order files are put in place
        for name in (name for name in SPLITS if name in splits):
            path = placing.enter_context(new_file(_file_of(folder, name)))
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                for row in splits[name]:
                    chat = task.kind == "chat"
                    values = {"messages": messages(row.values, row.where)} if chat else task.values(row.values, row.where)
                    file.write(json.dumps(values, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a disk that is full is found while the old files are there
        placing.enter_context(new_file(folder / TASK_FILE)).write_text(task.to_yaml(), encoding="utf-8", newline="\n")
        train.unlink(missing_ok=True)
        for name in set(SPLITS) - set(splits):
            _file_of(folder, name).unlink(missing_ok=True)  # of an earlier conversion with other shares


def _file_of(folder: Path, split: str) -> Path:
    return folder / f"{split}.jsonl"


def _refuse_own_input(source: Path, folder: Path) -> None:
    """See that nothing that is read would be written over.

    Raises:
        ConfigError: `source` is `folder`, or one of the files that go there.
    """
    written = {_file_of(folder, name).resolve() for name in SPLITS}
    if source.resolve() == folder.resolve() or source.resolve() in written:
        raise ConfigError(f"OUT_DIR {folder}: what is read there would be written over.", "Give another folder.")


def parser() -> argparse.ArgumentParser:
    """The command line of `llmforge convert`."""
    made = CommandParser(
        prog="llmforge convert", description="Scenario text, questions or chats to rows of a task.", allow_abbrev=False
    )
    made.add_argument(
        "source", metavar="IN", type=Path, help="A file, or a folder of them: scenario text, .jsonl, .json or .csv."
    )
    made.add_argument("folder", metavar="OUT_DIR", type=Path, help="Where train.jsonl, validation.jsonl and test.jsonl go.")
    made.add_argument("--task", metavar="FILE", help=f"The task: a YAML file, or one of {', '.join(BUILT_IN)}.")
    defaults = DataArguments()
    for name, kind, text in (
        ("split_ratios", str, "Shares of train, validation and test; a share of 0 leaves the split out."),
        ("split_seed", int, "Another seed sends rows to other splits."),
        ("dedup_threshold", float, "Rows that share this much of their shingles (Jaccard) never stand in two splits."),
        ("dedup_drop_threshold", float, "Of rows that share this much within a split, drop all but one."),
    ):
        flags = (f"--{name}", f"--{name.replace('_', '-')}")
        value = getattr(defaults, name)
        made.add_argument(*flags, dest=name, type=kind, default=value, help=f"{text} (default: {value})")
    made.add_argument("--strict", action="store_true", help="Stop at the first scenario that cannot be used, not count it.")
    made.add_argument("--json", action="store_true", help="Print the result as one JSON object and nothing else.")
    return made


def main(argv: Sequence[str] | None = None) -> Converted:
    """The command line of `llmforge convert`."""
    args = parser().parse_args(argv)
    set_up_logging()
    thresholds = {"dedup_threshold": args.dedup_threshold, "dedup_drop_threshold": args.dedup_drop_threshold}
    data = DataArguments(split_ratios=args.split_ratios, split_seed=args.split_seed, **thresholds)
    task = find_task(args.task) if args.task is not None else None
    if args.folder.exists() and not args.folder.is_dir():
        raise ConfigError(f"OUT_DIR {args.folder} is a file.", "Give a folder.")
    result = convert_scenarios(args.source, args.folder, task, data, args.strict)
    if args.json:
        print(json.dumps(result.as_json(), ensure_ascii=False))
        return result
    terminal = console()
    told = ", ".join(f"{name} {count:,}" for name, count in result.splits.items())
    terminal.print(f"{result.read:,} read for the task {result.task.name}: {told}", highlight=False, markup=False, soft_wrap=True)
    for line in result.account.lines():
        terminal.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    near = sum(count for reason, count in result.account.skipped.items() if reason in REASONS and "near" in reason)
    if near > 0.2 * result.read:
        terminal.print(
            f"{near / result.read:.0%} are near-duplicates: where rows only look alike, raise --dedup_threshold "
            f"(now {data.dedup_threshold:g}).",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    terminal.print(f"Wrote {result.folder}", highlight=False, markup=False, soft_wrap=True)
    return result


if __name__ == "__main__":
    sys.exit(run_command(main))
