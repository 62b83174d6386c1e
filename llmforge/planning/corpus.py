"""How many tokens there are to train on: counted where the data is prepared, else estimated from its bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmforge.configs.data import DataArguments
from llmforge.data.documents import Account
from llmforge.data.prepared import load_prepared
from llmforge.data.sources.corpus import check_corpus, nothing_found
from llmforge.data.sources.known import KnownFiles
from llmforge.data.sources.units import find_units


@dataclass(frozen=True)
class CorpusSize:
    """Tokens of a corpus.

    Attributes:
        tokens: To train on.
        rows: They fill.
        validation_tokens: To evaluate on.
        bytes_per_token: Of the training text.
        counted: Whether they were counted, or estimated from the size of the files.
        vocabulary: Entries of the tokenizer, where it is there.
        block_size: Of the rows.
    """

    tokens: int
    rows: int
    validation_tokens: int
    bytes_per_token: float
    counted: bool
    vocabulary: int | None
    block_size: int


def bytes_per_token(vocabulary: int) -> float:
    """Bytes that a token of text or code stands for, by and large: 3.3 at 8,192 entries and 0.35 more at each doubling.

    Between code and prose: tokenizers trained on the Go sample gave 2.5 at 2,048 entries, on kind's documentation 3.2, on
    two novels 3.2 and, at 8,192, 3.9. One's own may differ by a quarter.
    """
    return 3.3 + 0.35 * math.log2(max(vocabulary, 512) / 8192)


def corpus_size(data: DataArguments, vocabulary: int) -> CorpusSize | None:
    """The size of what `data` names; None where it names nothing, or nothing whose size is known without reading it.

    Args:
        data: With ``--dataset_dir`` or a corpus.
        vocabulary: Of the tokenizer that will be trained.

    Raises:
        DataError: There is no such dataset or corpus, or it is empty.
    """
    if data.dataset_dir is not None:
        prepared = load_prepared(data.dataset_dir)
        splits = prepared.card["splits"]
        train, validation = splits["train"], splits.get("validation", {"tokens": 0})
        return CorpusSize(
            train["tokens"],
            train["rows"],
            validation["tokens"],
            train["bytes_per_token"],
            counted=True,
            vocabulary=prepared.card["tokenizer"]["vocab_size"],
            block_size=prepared.block_size,
        )
    if not data.sources():
        return None
    check_corpus(data)
    total = 0
    for source in data.sources():
        known, account = KnownFiles(source), Account()
        sizes = [unit.size for unit in find_units(source, account, known)]
        known.save()
        if not sizes:
            raise nothing_found(source, account)
        total += sum(sizes)
    if total == 0:
        return None
    shares, each = data.ratios(), bytes_per_token(vocabulary)
    tokens = int(total * shares[0] / each)
    rows = -(-tokens // data.block_size)
    return CorpusSize(tokens, rows, int(total * shares[1] / each), each, False, None, data.block_size)
