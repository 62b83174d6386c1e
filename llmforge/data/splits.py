"""Which split a document belongs to: a pure function of its own text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.data.documents import Document
from llmforge.errors import DataError


def split_position(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the text and the seed alone.

    So the same text always lands in the same split: a copy of a training document never
    turns up in validation, and adding documents moves none.
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_documents(documents: Sequence[Document], args: DataArguments) -> dict[str, list[int]]:
    """Indices of the documents of each split that has a share.

    Raises:
        DataError: A split with a share got no document.
    """
    ratios = dict(zip(SPLITS, args.ratios(), strict=True))
    splits: dict[str, list[int]] = {name: [] for name, share in ratios.items() if share > 0}
    for index, document in enumerate(documents):
        position, edge = split_position(document.text, args.split_seed), 0.0
        for name in splits:
            edge += ratios[name]
            if position < edge:
                break
        splits[name].append(index)  # the last one, where rounding leaves the edge below 1
    for name, members in splits.items():
        if not members:
            raise DataError(
                f"The {name} split got none of the {len(documents)} documents.",
                "Give more documents, another --split_seed, or the split a share of 0 in --split_ratios.",
            )
    return splits
