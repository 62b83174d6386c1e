"""A prepared dataset on disk: what `prepare` writes and everything after it reads."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.data.rows import PackedRows
from llmforge.data.shards import digest
from llmforge.errors import DataError
from llmforge.storage.records import read_json, read_json_lines
from llmforge.tokenization import FILES, load_pretrained

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
#: So many ids are looked at before training, a second's work at most, in so many places.
_MOST_IDS, _STRETCHES = 1 << 26, 64


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

    def check(self, vocab_size: int) -> None:
        """Find before the first step what would end in the middle of it, or train on nonsense in silence.

        Ids are looked at in every row; in a large dataset in rows spread evenly over it.

        Args:
            vocab_size: Rows of the model's embedding; it need not have one for padding (`PackedCollator.of`).

        Raises:
            DataError: The tokenizer is not the one that the rows were made with, or has more entries than the model
                rows; or a row has an id that stands for no token.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if tokenizer_digest(self.path / "tokenizer") != self.card["tokenizer"].get("hash"):
            raise DataError(f"{self.path / 'tokenizer'} is not the tokenizer that its rows were made with.", "Prepare it again.")
        entries = len(self.tokenizer)
        if max(self._vocabulary(self.tokenizer).values()) >= vocab_size:
            raise DataError(
                f"The dataset's tokenizer has {entries:,} entries, the model {vocab_size:,} rows.",
                "Build the model for this tokenizer.",
            )
        for split, rows in self.dataset.items():
            for name in ("input_ids", "segment_targets"):
                column = rows.data.column(name)
                length = max(_MOST_IDS // self.block_size // _STRETCHES, 1)
                starts = range(0, len(column), max(len(column) // _STRETCHES, length))
                for start in starts:
                    ids = pc.list_flatten(column.slice(start, length))
                    worst = pc.max(ids.cast(pa.int64())).as_py()
                    if worst is not None and worst >= entries:
                        raise DataError(
                            f"{self.path}: split {split} has the id {worst:,} in rows {start:,} to "
                            f"{min(start + length, len(column)) - 1:,}; its tokenizer has {entries:,} entries.",
                            "Prepare it again.",
                        )

    def is_for(self, tokenizer: PreTrainedTokenizerBase, whole: bool = False) -> bool:
        """Whether the ids mean the same in a model with `tokenizer`: entries and merges are its own, padding apart.

        Args:
            tokenizer: The model's.
            whole: Whether it may have no entry that the rows' tokenizer lacks.
        """
        own, given = self._vocabulary(tokenizer), self._vocabulary(self.tokenizer)
        entries = own == given if whole else given.items() <= own.items()
        return entries and _merges(tokenizer) == _merges(self.tokenizer)

    def _vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        pad = self.tokenizer.pad_token
        return {token: index for token, index in tokenizer.get_vocab().items() if token != pad}

    def rows(self, split: str, most: int | None = None) -> PackedRows | None:
        """The rows of `split`, at `most` so many, evenly spread; None where there is no such split."""
        if split not in self.dataset:
            return None
        return PackedRows(self.dataset[split], pad=int(self.card["tokenizer"]["pad_token_id"]), most=most)

    def document_names(self, indices: Sequence[int]) -> list[str]:
        """The names of documents (a file's path in the corpus, mostly) by the numbers that ``segment_documents`` has."""
        names = {line["document"]: line["name"] for line in read_json_lines(self.path / DOCUMENTS)}
        return [str(names.get(index, f"number {index}")) for index in indices]


def _merges(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, ...]]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def tokenizer_digest(folder: Path) -> str:
    """What stands for the tokenizer in `folder`."""
    return digest((folder / name).read_bytes() for name in FILES)


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
