"""llmforge prepare --corpus PATH --output_dir DIR

From a corpus to packed rows on disk, ready for `llmforge pretrain --dataset_dir DIR`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.prepare import PreparedDataset, prepare_dataset, vocabulary_line
from llmforge.data.sources.corpus import check_corpus
from llmforge.errors import ConfigError
from llmforge.parsing import ForgeParser
from llmforge.runtime.commands import run_command
from llmforge.runtime.logs import console, set_up_logging


@dataclass
class PrepareArguments:
    """Where the dataset goes and how it is reported."""

    _argument_group_name = "output"

    output_dir: str | None = field(default=None, metadata={"help": "Folder for the dataset; by default the cache."})
    json: bool = field(default=False, metadata={"help": "Print the data card as one JSON object and nothing else."})


def main(argv: Sequence[str] | None = None) -> PreparedDataset:
    """The command line of `llmforge prepare`."""
    parser = ForgeParser(
        [DataArguments, TokenizerArguments, PrepareArguments], prog="llmforge prepare", description="Corpus to packed dataset."
    )
    parsed = parser.parse(argv)
    data, output = parsed.get(DataArguments), parsed.get(PrepareArguments)
    if data.dataset_dir is not None:
        raise ConfigError(
            f"--dataset_dir {data.dataset_dir} is prepared already.", "Give --corpus, and --output_dir for the result."
        )
    check_corpus(data)
    set_up_logging()
    prepared = prepare_dataset(data, parsed.get(TokenizerArguments), output.output_dir)
    if output.json:
        print(json.dumps({"path": str(prepared.path), "reused": prepared.reused, **prepared.card}))
    else:
        console().print(card_table(prepared.card))
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


if __name__ == "__main__":
    sys.exit(run_command(main))
