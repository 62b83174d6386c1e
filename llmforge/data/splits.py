"""Which split a document belongs to, so that nothing stands on two sides and nothing ever moves.

A document has a *place* of its own, made of its text (or its group's name) and the seed: train,
validation or test. It is used there or not at all. Where copies, or near ones, have different places,
those in the split held out the most stay and the others are left out. So adding documents, in any
order, moves none: it can only leave more of them out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.data.dedup import content_bytes, find_clusters, highest_near
from llmforge.errors import DataError

#: Why a document is left out, by `Assignment.reason`; the first is for those that stay.
REASONS = (
    "",
    "exact copy",
    "near-duplicate",
    "exact copy of a held-out document",
    "near-duplicate of a held-out document",
    "copy of a document whose split is given",
)
KEPT, COPY, NEAR, COPY_OF_HELD_OUT, NEAR_HELD_OUT, COPY_OF_GIVEN = range(len(REASONS))
DROPPED = -1


@dataclass(frozen=True)
class Assignment:
    """Where every document goes.

    Attributes:
        split: int8, the number of its split in `SPLITS`, or `DROPPED`.
        reason: int8, the number of the reason in `REASONS`.
        cluster: int64, the smallest index in its cluster of copies.
        names: The splits there are.
    """

    split: np.ndarray
    reason: np.ndarray
    cluster: np.ndarray
    names: tuple[str, ...]

    def members(self) -> dict[str, np.ndarray]:
        """Indices of the documents of each split."""
        return {name: np.flatnonzero(self.split == SPLITS.index(name)) for name in self.names}

    def dropped(self) -> dict[str, np.ndarray]:
        """Indices of the documents that are left out, by reason."""
        found = {reason: np.flatnonzero(self.reason == number) for number, reason in enumerate(REASONS) if number}
        return {reason: indices for reason, indices in found.items() if len(indices)}


def split_position(content: str | np.ndarray, seed: int) -> float:
    """A number in [0, 1) that depends on the text (or token ids, or group's name) and the seed alone."""
    digest = hashlib.blake2b(content_bytes(content), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign(
    args: DataArguments,
    positions: np.ndarray,
    hashes: np.ndarray,
    signatures: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    own: np.ndarray | None = None,
) -> Assignment:
    """Give each document of a corpus its split, or the reason why it has none.

    Args:
        args: Ratios, seed, what is done with near-duplicates and when two documents are such.
        positions: float64 ``(documents,)``, `split_position` of each text.
        hashes: uint64 ``(documents, 2)``, `dedup.text_hash` of each text.
        signatures: uint32 ``(documents, PERMUTATIONS)``; not needed with ``--dedup off``.
        groups: What must stay in one split; empty where a document stands for itself.
        own: int8 ``(documents,)``: the number in `SPLITS` of the split that its source has, or -1.

    Raises:
        DataError: A split with a share, or one of the sources', came out empty.
    """
    own = np.full(len(positions), -1, dtype=np.int8) if own is None else own
    ranks = _ranks(args, positions, groups, own)
    if args.dedup == "off" or signatures is None:
        clusters, highest = find_clusters(hashes, None), ranks
    else:
        clusters = find_clusters(hashes, signatures, max(args.dedup_drop_threshold, args.dedup_threshold))
        highest = highest_near(signatures, ranks, args.dedup_threshold)
    reason = _reasons(hashes, clusters, ranks, highest, args.dedup)
    split = np.where(reason == KEPT, ranks % len(SPLITS), DROPPED).astype(np.int8)
    wanted = {number for number, share in enumerate(args.ratios()) if share > 0 and (own < 0).any()}
    names = tuple(SPLITS[number] for number in sorted(wanted | {0} | set(own[own >= 0].tolist())))
    result = Assignment(split, reason, clusters, names)
    sizes = {name: len(members) for name, members in result.members().items()}
    for name, size in sizes.items():
        if not size:
            raise _empty(args, name, int((ranks % len(SPLITS) == SPLITS.index(name)).sum()), sizes, len(positions))
    return result


class HasText(Protocol):
    """A document, as far as its place goes."""

    @property
    def text(self) -> str:
        """Its text."""


def split_documents(documents: Sequence[HasText], args: DataArguments) -> dict[str, list[int]]:
    """Indices of the documents of each split that has a share, by their texts alone.

    Raises:
        DataError: A split with a share got no document.
    """
    positions = np.array([split_position(document.text, args.split_seed) for document in documents])
    ranks = _ranks(args, positions, None, np.full(len(documents), -1, dtype=np.int8))
    splits = {name: np.flatnonzero(ranks == number).tolist() for number, name in enumerate(SPLITS) if args.ratios()[number] > 0}
    sizes = {name: len(members) for name, members in splits.items()}
    for name, size in sizes.items():
        if not size:
            raise _empty(args, name, 0, sizes, len(documents))
    return splits


def _ranks(args: DataArguments, positions: np.ndarray, groups: Sequence[str] | None, own: np.ndarray) -> np.ndarray:
    """The split each document would be in if it were alone; a split that its source has adds the number of splits.

    Of copies the one of the highest rank stays.
    """
    if groups is not None and any(groups):
        named = {group: split_position(group, args.split_seed) for group in set(groups) if group}
        positions = np.array([named.get(group, position) for group, position in zip(groups, positions.tolist(), strict=True)])
    ratios = np.array(args.ratios())
    # The last split with a share takes what rounding leaves; one without a share has an edge no position is below.
    present = np.flatnonzero(ratios > 0)
    edges = np.cumsum(ratios[present])[:-1]
    ranks = present[np.searchsorted(edges, positions, side="right")]
    return np.where(own >= 0, own.astype(np.int64) + len(SPLITS), ranks)


def _reasons(hashes: np.ndarray, clusters: np.ndarray, ranks: np.ndarray, highest: np.ndarray, dedup: str) -> np.ndarray:
    same = find_clusters(hashes, None)
    same_top = _highest(same, ranks)
    top = np.maximum(_highest(clusters, ranks), highest)
    reason = np.zeros(len(clusters), dtype=np.int8)
    if dedup != "off":
        # By hash within the rank, and by index among copies, which are all the same.
        order = np.lexsort((np.arange(len(clusters)), hashes[:, 1], hashes[:, 0], -ranks))
        reason[_later(same, order)] = COPY
        if dedup == "drop":
            reason[(reason == KEPT) & _later(clusters, order)] = NEAR
    lost = ranks < top
    reason[lost] = np.where(same_top[lost] > ranks[lost], COPY_OF_HELD_OUT, NEAR_HELD_OUT)
    # A source's own split wins over a place, and may be train.
    reason[lost & (top == len(SPLITS))] = COPY_OF_GIVEN
    return reason


def _highest(groups: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The highest rank in each document's group; groups are called by the index of a member."""
    top = ranks.copy()
    np.maximum.at(top, groups, ranks)
    return top[groups]


def _later(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which documents are not the first of their group in `order`."""
    _, first = np.unique(groups[order], return_index=True)
    later = np.ones(len(groups), dtype=bool)
    later[order[first]] = False
    return later


def _empty(args: DataArguments, name: str, placed: int, sizes: Mapping[str, int], total: int) -> DataError:
    if placed:
        return DataError(
            f"The {name} split lost all of its {placed:,} documents as copies of others.",
            "Give more documents, another --split_seed, or --dedup off.",
        )
    ways = "Give more documents, another --split_seed, or other --split_ratios."
    if name != SPLITS[0]:
        # Its share for the other one that is held out, so that no training document moves; where that is empty too, it would
        # come out empty again.
        train, *shares = args.ratios()
        others = [other != name and sizes.get(other, 0) > 0 for other in SPLITS[1:]]
        shares = [sum(shares) if there else 0 for there in others]
        ratios = ",".join(f"{share:.6g}" for share in (train, *shares)) if any(others) else "1,0,0"
        ways = f"Leave it out by --split_ratios {ratios}, or give more documents or another --split_seed."
    return DataError(
        f"The {name} split got none of the {total} documents.",
        ways,
    )
