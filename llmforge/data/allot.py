"""What becomes of each document of a corpus: which split has it and how often, and why one is in none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.data.boilerplate import common_blocks, find_block
from llmforge.data.corpus import Corpus
from llmforge.data.documents import EXAMPLES, Account
from llmforge.data.splits import assign
from llmforge.runtime.logs import logger

#: Common blocks that a card shows, and characters of each.
_SHOWN_BLOCKS, _SHOWN_CHARACTERS = 5, 160


@dataclass
class Allotment:
    """Where every document goes.

    Attributes:
        splits: Split → mask of its documents, ``bool (documents,)``.
        dropped: Those that are in no split, by reason.
        clusters: Clusters of two documents or more, copies or nearly so, and the documents in them.
        blocks: By source, hashes of the blocks that are trimmed.
        boilerplate: Blocks that many documents share, the most frequent first: documents and an excerpt.
    """

    splits: dict[str, np.ndarray]
    dropped: Account
    clusters: tuple[int, int]
    blocks: dict[int, frozenset[int]] = field(default_factory=dict)
    boilerplate: list[dict[str, Any]] = field(default_factory=list)


def allot(corpus: Corpus, data: DataArguments) -> Allotment:
    """Give every document its split, or the reason why it has none, and find what many share.

    Raises:
        DataError: A split with a share came out empty.
    """
    own = np.array([-1 if source.split is None else SPLITS.index(source.split) for source in corpus.sources], dtype=np.int8)
    signatures = None if data.dedup == "off" else corpus.signatures
    groups = corpus.groups.to_pylist()
    found = assign(data, corpus.positions, corpus.hashes, signatures, groups if any(groups) else None, own[corpus.source_numbers])
    dropped = Account()
    for reason, members in found.dropped().items():
        for index in members[:EXAMPLES].tolist():
            dropped.skip(reason, str(corpus.names[index]), 0)
        dropped.skipped[reason] = len(members)
    splits = {}
    for name, members in found.members().items():
        splits[name] = np.zeros(len(corpus), dtype=bool)
        splits[name][members] = True
    sizes = np.bincount(found.cluster, minlength=1)
    allotment = Allotment(splits, dropped, (int((sizes > 1).sum()), int(sizes[sizes > 1].sum())))
    _find_boilerplate(corpus, allotment)
    return allotment


def _find_boilerplate(corpus: Corpus, allotment: Allotment) -> None:
    common: dict[int, int] = {}
    for number, source in enumerate(corpus.sources):
        own = corpus.source_numbers == number
        blocks = common_blocks(corpus.blocks(number), int(own.sum()))
        if source.trim_boilerplate:
            allotment.blocks[number] = frozenset(blocks)
        for block, documents in blocks.items():
            common[block] = common.get(block, 0) + documents
    shown = sorted(common, key=lambda block: (-common[block], block))[:_SHOWN_BLOCKS]
    places = {block: corpus.first_with(block) for block in shown}
    wanted = np.zeros(len(corpus), dtype=bool)
    wanted[list(places.values())] = True
    texts = dict(corpus.texts(wanted)) if places else {}
    for block, place in places.items():
        excerpt = find_block(texts[place], block, str(corpus.kinds[place])) or ""
        excerpt = " ".join(excerpt.split())
        if len(excerpt) > _SHOWN_CHARACTERS:
            excerpt = excerpt[: _SHOWN_CHARACTERS - 1] + "…"
        allotment.boilerplate.append({"documents": common[block], "excerpt": excerpt})


def tokenizer_sample(corpus: Corpus, train: np.ndarray, most: int) -> np.ndarray:
    """The mask of the documents that a tokenizer is trained on: those of `train`, or about `most` bytes of them.

    Which ones depends on their texts alone, so that most stay when documents are added.
    """
    size = int(corpus.sizes[train].sum())
    if size <= most:
        return train
    chosen = train & (corpus.hashes[:, 0] / 2.0**64 < most / size)
    logger.info("tokenizer: training on %s of the %s bytes", f"{int(corpus.sizes[chosen].sum()):,}", f"{size:,}")
    return chosen


def training_texts(corpus: Corpus, chosen: np.ndarray) -> Iterator[str]:
    """The texts of the documents where the mask `chosen` is true."""
    return (text for _, text in corpus.texts(chosen))
