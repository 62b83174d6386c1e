"""llmforge prepare --corpus PATH --output_dir DIR
llmforge prepare --source format=markdown,path=DOCS --source format=jsonl,path=QA.jsonl,content=qa --output_dir DIR
llmforge prepare --inspect DIR
llmforge prepare --check_leaks DIR

From a corpus to packed rows on disk, ready for `llmforge pretrain --dataset_dir DIR`; what is in
them, and how much of validation also stands in training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.card import left_out, mended, vocabulary_line
from llmforge.data.leaks import LeakReport, check_folder
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.data.show import ShownRow, show_rows
from llmforge.data.sources.corpus import check_corpus
from llmforge.errors import CheckFailed, ConfigError
from llmforge.parsing import ForgeParser
from llmforge.runtime.commands import run_command
from llmforge.runtime.logs import console, printable, set_up_logging


@dataclass
class PrepareArguments:
    """Where the dataset goes and how it is reported."""

    _argument_group_name = "output"

    output_dir: str | None = field(default=None, metadata={"help": "Folder for the dataset; by default the cache."})
    inspect: str | None = field(default=None, metadata={"help": "Show decoded rows of the dataset in this folder; make nothing."})
    inspect_rows: int = field(default=3, metadata={"help": "Rows of each split that --inspect shows."})
    check_leaks: str | None = field(
        default=None,
        metadata={
            "help": "Say how much of validation and test also stands in training, for the dataset in this folder, ours or any "
            "other; make nothing. Exit code 7 where it is more than a trace."
        },
    )
    json: bool = field(default=False, metadata={"help": "Print the result as one JSON object and nothing else."})

    def __post_init__(self) -> None:
        if self.inspect_rows < 1:
            raise ConfigError(f"--inspect_rows {self.inspect_rows} shows nothing.", "Give at least 1.")


def main(argv: Sequence[str] | None = None) -> PreparedDataset | LeakReport | list[ShownRow]:
    """The command line of `llmforge prepare`.

    Raises:
        CheckFailed: ``--check_leaks`` found more than a trace of validation in training.
    """
    parser = ForgeParser(
        [DataArguments, TokenizerArguments, PrepareArguments], prog="llmforge prepare", description="Corpus to packed dataset."
    )
    parsed = parser.parse(argv)
    data, output = parsed.get(DataArguments), parsed.get(PrepareArguments)
    set_up_logging()
    if output.inspect is not None:
        return _inspect(output.inspect, output)
    if output.check_leaks is not None:
        return _check_leaks(output.check_leaks, output)
    if data.dataset_dir is not None:
        raise ConfigError(
            f"--dataset_dir {data.dataset_dir} is prepared already.", "Give --corpus, and --output_dir for the result."
        )
    check_corpus(data)
    prepared = prepare_dataset(data, parsed.get(TokenizerArguments), output.output_dir)
    if output.json:
        print(json.dumps({"path": str(prepared.path), "reused": prepared.reused, **prepared.card}))
    else:
        console().print(card_table(prepared.card))
        for line in (*left_out(prepared.card), *mended(prepared.card)):
            console().print(printable(line), highlight=False, markup=False, soft_wrap=True)
        console().print(f"{'Found' if prepared.reused else 'Wrote'} {prepared.path}", soft_wrap=True, highlight=False)
    return prepared


def card_table(card: dict[str, Any]) -> Any:
    """The data card as a rich table."""
    from rich.table import Table

    vocabulary = vocabulary_line(card["tokenizer"]["vocab_size"], card["tokenizer"]["requested_vocab_size"])
    table = Table(title=f"Rows of {card['settings']['block_size']} tokens", caption=f"vocabulary: {vocabulary}")
    table.add_column("split")
    for column in ("documents", "bytes", "tokens", "bytes/token", "rows", "filled"):
        table.add_column(column, justify="right")
    for name, split in card["splits"].items():
        counts = (split["documents"], split["bytes"], split["tokens"])
        table.add_row(
            name,
            *(f"{count:,}" for count in counts),
            f"{split['bytes_per_token']:.2f}",
            f"{split['rows']:,}",
            f"{split['density']:.1%}",
        )
    return table


def _inspect(folder: str, output: PrepareArguments) -> list[ShownRow]:
    rows = show_rows(load_prepared(folder), output.inspect_rows)
    if output.json:
        print(json.dumps([asdict(row) for row in rows]))
        return rows
    from rich.text import Text

    terminal = console()
    for row in rows:
        terminal.rule(f"{row.split} {row.row}", align="left")
        for segment in row.segments:
            border = f"── {printable(segment.document)}, {segment.length} tokens from {segment.start}, then {segment.target!r}"
            terminal.print(Text(border, style="dim"))
            terminal.print(Text(printable(segment.text)))
        if row.padding:
            terminal.print(Text(f"── {row.padding} of padding", style="dim"))
    return rows


def _check_leaks(folder: str, output: PrepareArguments) -> LeakReport:
    report = check_folder(folder)
    if output.json:
        print(json.dumps(report.as_json()))
    else:
        _show_leaks(report)
    leak = report.first_leak()
    if leak is not None:
        raise CheckFailed(
            f"--check_leaks {folder}: training has {leak.share:.1%} of {leak.split}, in runs of {leak.n} {report.unit}.",
            "Prepare the corpus with --dedup drop.",
        )
    return report


def _show_leaks(report: LeakReport) -> None:
    from rich.table import Table
    from rich.text import Text

    head, *rows = report.table()
    table = Table(title="How much of the held-out splits stands in training")
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    terminal = console()
    terminal.print(table)
    for leak in report.splits:
        for worst in leak.worst if leak.n == max(other.n for other in report.splits) else ():
            share = (
                f"{leak.split}: {worst.covered:,} of {worst.tokens:,} {report.unit} of {printable(worst.name)} are in training"
            )
            terminal.print(Text(f"{share}: {printable(worst.excerpt)!r}"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
