"""The text of an evaluation as token ids, document by document, and which source each document is from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmforge.configs.data import DataArguments
from llmforge.data.documents import IdRange
from llmforge.data.encode import TokenizedCorpus
from llmforge.data.packing import pack
from llmforge.data.prepared import DOCUMENTS, PreparedDataset
from llmforge.data.reading import read_shards
from llmforge.data.rows import PackedRows, to_dataset
from llmforge.data.shards import digest
from llmforge.data.windows import WindowRows, slide
from llmforge.errors import DataError
from llmforge.storage.records import read_json_lines
from llmforge.tokenization import FILES, load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class EvaluationText:
    """Documents to evaluate on.

    Attributes:
        documents: The ids of each, without separators.
        sources: The names of the sources.
        source_of: The source of each document, as a number; int64.
        name: What the whole is called in a report.
        fingerprint: Another text, or another tokenizer, has another one.
    """

    documents: list[np.ndarray]
    sources: list[str]
    source_of: np.ndarray
    name: str
    fingerprint: str

    def rows(self, block_size: int, tokenizer: PreTrainedTokenizerBase, stride: int | None) -> PackedRows | WindowRows:
        """Packed as in training, or, with a stride, in windows; ``segment_documents`` counts `documents`."""
        numbers = range(len(self.documents))
        end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        pad = end if pad is None else pad  # predicts nothing
        if stride is not None:
            return slide(self.documents, numbers, block_size, stride, end, pad)
        return PackedRows(to_dataset(pack(self.documents, numbers, block_size, end, pad)), pad=pad)

    def bytes_of(self, tokenizer: PreTrainedTokenizerBase, source: int) -> bytes:
        """The text of a source, its documents one after the other, as the ids stand for it."""
        chosen = [self.documents[i].tolist() for i in np.flatnonzero(self.source_of == source).tolist()]
        texts = tokenizer.backend_tokenizer.decode_batch(chosen, skip_special_tokens=True)
        return "".join(texts).encode()


@dataclass
class _Copy:
    """A document that is being put together; a weighted source has several copies of it."""

    parts: list[np.ndarray] = field(default_factory=list)
    ended: bool = False


def text_of_dataset(data: PreparedDataset, split: str) -> EvaluationText:
    """The documents of a split, put together again from its rows.

    Raises:
        DataError: There is no such split, or nothing in it.
    """
    rows = data.rows(split)
    if not rows:
        there = ", ".join(name for name in data.dataset if len(data.dataset[name]))
        raise DataError(f"--split {split}: {data.path} has no rows of it.", f"It has {there}.")
    pieces: dict[int, list[_Copy]] = {}
    separator = int(data.card["tokenizer"]["end_of_text_id"])
    for row in (rows[index] for index in range(len(rows))):
        ends = np.cumsum(row["segment_lengths"]).tolist()
        columns = zip([0, *ends], ends, row["segment_targets"].tolist(), row["segment_documents"].tolist(), strict=False)
        for start, end, target, number in columns:
            ids, copies = row["input_ids"][start:end], pieces.setdefault(number, [])
            if ids[0] == separator:
                copies.append(_Copy())
                ids = ids[1:]
            # Whole rows come in order; the rest of a document comes later, when all its copies were begun.
            copy = next(copy for copy in copies if not copy.ended) if target == separator else copies[-1]
            copy.parts.append(ids)
            copy.ended = target == separator
    sources = [str(source["name"]) for source in data.card["sources"]]
    lines = read_json_lines(data.path / DOCUMENTS)
    of = {int(line["document"]): int(line["source"]) for line in lines if line["split"] == split}
    numbers = [number for number, copies in pieces.items() for _ in copies]
    documents = [np.concatenate(copy.parts) for copies in pieces.values() for copy in copies]
    source_of = np.array([of.get(number, 0) for number in numbers], dtype=np.int64)
    return EvaluationText(documents, sources, source_of, f"{', '.join(sources)} ({split})", data.fingerprint)


def text_of_corpus(
    data: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int, int], None] = lambda done, total: None,
    in_sections: bool = False,
) -> EvaluationText:
    """The documents of files and folders, read and cleaned as `prepare` does, with every copy kept.

    Args:
        data: Where they are, and how they are read.
        tokenizer: Makes tokens of them.
        progress: Is told how far reading is.
        in_sections: Whether few large documents are cut as `prepare` cuts them, so that there is something to pair.

    Raises:
        DataError: They cannot be read, or there is no text in them.
        StorageError: The cache cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        text_tokenizer = load(Path(folder))
        key = digest((Path(folder) / name).read_bytes() for name in FILES)
    ids = IdRange(len(text_tokenizer), text_tokenizer.end_of_text, text_tokenizer.pad, key)
    corpus = read_shards(data, ids, progress, in_sections=in_sections)
    tokens = TokenizedCorpus(corpus, text_tokenizer, key, {})
    documents: list[np.ndarray] = []
    every = np.ones(len(corpus), dtype=np.int64)
    for batch in tokens.batches(every, np.arange(len(corpus))):
        documents += np.split(np.asarray(batch.ids), np.cumsum(batch.lengths)[:-1])
    names = [source.name for source in corpus.sources]
    content = digest([corpus.hashes.tobytes(), key])
    return EvaluationText(documents, names, corpus.source_numbers, ", ".join(names), content)


def refuse_other_tokenizer(model: PreTrainedTokenizerBase, data: PreparedDataset, flag: str) -> None:
    """Refuse a dataset that was tokenized otherwise than the model was trained; tokens that were added since are none of it.

    Raises:
        DataError: An entry or a merge is another one.
    """
    if data.is_for(model):
        return
    raise DataError(
        f"--dataset_dir {data.path} was tokenized with another tokenizer than that of {flag}: the ids mean other tokens.",
        "Give the text itself by --corpus, or prepare it with --tokenizer MODEL.",
    )
