"""A prepared dataset on disk: what `prepare` writes and everything after it reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.data.rows import PackedRows
from llmforge.errors import DataError
from llmforge.storage import read_json, read_json_lines
from llmforge.tokenization import load_pretrained

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

#: Raised whenever the same corpus and settings would give other rows than before.
ROW_FORMAT = 1
CARD = "data_card.json"
#: A line a document that is in a split: its number, split, source, name, bytes and tokens.
DOCUMENTS = "documents.jsonl"
#: Everything that such a folder holds.
CONTENT = {CARD, DOCUMENTS, "data_card.md", "document_lengths.png", "dataset", "tokenizer"}


@dataclass
class PreparedDataset:
    """A folder that `prepare_dataset` made.

    Attributes:
        path: The folder: ``dataset/``, ``tokenizer/``, ``data_card.json``, ``data_card.md``, ``documents.jsonl``.
        card: The data card: what it was made from and what came out.
        reused: Whether it was there already.
    """

    path: Path
    card: dict[str, Any]
    reused: bool = False

    @functools.cached_property
    def dataset(self) -> DatasetDict:
        """The packed splits, memory-mapped."""
        from datasets import DatasetDict

        loaded = DatasetDict.load_from_disk(str(self.path / "dataset"))
        return loaded

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, as transformers knows it."""
        return load_pretrained(self.path / "tokenizer")

    @property
    def block_size(self) -> int:
        """Tokens in a row."""
        return int(self.card["settings"]["block_size"])

    @property
    def fingerprint(self) -> str:
        """Changes whenever content, settings, tokenizer or row format do."""
        return str(self.card["fingerprint"])

    def rows(self, split: str, most: int | None = None) -> PackedRows | None:
        """The rows of `split`, at `most` so many, evenly spread; None where there is no such split."""
        if split not in self.dataset:
            return None
        return PackedRows(self.dataset[split], pad=int(self.card["tokenizer"]["pad_token_id"]), most=most)

    def document_names(self, indices: Sequence[int]) -> list[str]:
        """The names of documents (a file's path in the corpus, mostly) by the numbers that ``segment_documents`` has."""
        names = {line["document"]: line["name"] for line in read_json_lines(self.path / DOCUMENTS)}
        return [str(names.get(index, f"number {index}")) for index in indices]


def load_prepared(path: Path | str) -> PreparedDataset:
    """The dataset in `path`.

    Raises:
        DataError: The folder is none that `prepare_dataset` made, or is of another row format.
    """
    path = Path(path).expanduser()
    if not (path / CARD).is_file() or not (path / "dataset").is_dir():
        raise DataError(f"--dataset_dir {path} is no prepared dataset.", "Make one with `llmforge prepare --output_dir`.")
    card = read_json(path / CARD)
    if card.get("row_format") != ROW_FORMAT:
        raise DataError(f"{path} was made in row format {card.get('row_format')}, not {ROW_FORMAT}.", "Prepare it again.")
    return PreparedDataset(path, card)
