"""Which document goes into which split, and which into none."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from llmforge.configs.data import SPLITS, DataArguments
from llmforge.data.dedup import signatures, similarity, text_hash
from llmforge.data.documents import Document
from llmforge.data.splits import DROPPED, Assignment, assign, split_documents, split_position
from llmforge.errors import ConfigError, DataError

WORDS = [f"{first}{last}" for first in "bcdfghjklmnp" for last in "aeiou alm ent irk ost und".split()]
HALF = "0.5,0.25,0.25"


def made_text(source: random.Random, words: int = 60) -> str:
    return " ".join(source.choices(WORDS, k=words))


def edited(text: str, share: float, source: random.Random) -> str:
    """`text` with words replaced, taken out and put in."""
    words: list[str] = []
    for word in text.split():
        kind = source.randrange(3) if source.random() < share else 3
        words += ([source.choice(WORDS)], [], [source.choice(WORDS), word], [word])[kind]
    return " ".join(words)


def split_texts(texts, groups=None, own=None, **settings) -> Assignment:
    args = DataArguments(**settings)
    positions = np.array([split_position(text, args.split_seed) for text in texts])
    hashes = np.frombuffer(b"".join(map(text_hash, texts)), dtype=np.uint64).reshape(-1, 2)
    given = None if own is None else np.array([SPLITS.index(name) if name else -1 for name in own], dtype=np.int8)
    return assign(args, positions, hashes, signatures(texts, args.dedup_shingle), groups, given)


def text_in(split: str, source: random.Random) -> str:
    """A text whose own place is `split`."""
    while True:
        text = made_text(source)
        if SPLITS[place(text)] == split:
            return text


def edit_in(split: str, text: str, share: float, source: random.Random) -> str:
    """An edited `text` whose own place is `split`."""
    while True:
        changed = edited(text, share, source)
        if SPLITS[place(changed)] == split:
            return changed


def longer_in(split: str, text: str) -> str:
    """`text` with a word more at its end, whose own place is `split`."""
    return next(longer for word in WORDS if SPLITS[place(longer := f"{text} {word}")] == split)


def place(text: str) -> int:
    position = split_position(text, 0)
    return int(position >= 0.8) + int(position >= 0.9)


@pytest.fixture
def source():
    return random.Random(5)


@pytest.fixture
def filler():
    """Documents like no other, so that no split is empty."""
    made = random.Random(6)
    return [text_in(split, made) for split in SPLITS for _ in range(3)]


def make(count: int, start: int = 0) -> list[Document]:
    return [Document(f"{i}.txt", f"the text of document {i}") for i in range(start, start + count)]


# --- places: what a document's split is when it stands alone


@pytest.mark.parametrize("ratios", ["0.8,0.1,0.1", "0.5,0.25,0.25", "0.9,0.1,0", "0.8,0,0.2", "1"])
@pytest.mark.parametrize("dedup", ["drop", "off"])
def test_every_distinct_document_is_in_exactly_one_split(ratios, dedup, source):
    texts = [made_text(source) for _ in range(300)]
    members = split_texts(texts, split_ratios=ratios, dedup=dedup).members()
    assert sorted(index for indices in members.values() for index in indices) == list(range(300))
    expected = [name for name, share in zip(SPLITS, DataArguments(split_ratios=ratios).ratios(), strict=True) if share]
    assert list(members) == expected


def test_shares_are_about_right():
    splits = split_documents(make(2000), DataArguments(split_ratios="0.8,0.1,0.1"))
    # Four standard deviations of a binomial count.
    assert len(splits["train"]) == pytest.approx(1600, abs=72)
    assert len(splits["validation"]) == pytest.approx(200, abs=54)
    assert len(splits["test"]) == pytest.approx(200, abs=54)


def test_both_ways_give_a_document_of_no_group_the_same_place(source):
    documents = [Document(str(number), made_text(source)) for number in range(300)]
    for ratios in ("0.8,0.1,0.1", "0.7,0.3", "0.8,0,0.2"):
        places = split_documents(documents, DataArguments(split_ratios=ratios))
        members = split_texts([document.text for document in documents], split_ratios=ratios).members()
        assert {name: indices.tolist() for name, indices in members.items()} == places


def test_positions_are_frozen():
    """A change here would move documents of every dataset there is between its splits."""
    assert split_position("package main", 0) == pytest.approx(0.26256907469413365, abs=1e-12)
    assert split_position("package main", 7) == pytest.approx(0.2954152291308271, abs=1e-12)
    assert 0 <= split_position("lone \ud800 surrogate", 0) < 1


def test_token_ids_have_a_place_whatever_their_type():
    ids = np.array([5, 7, 65_000])
    assert split_position(ids.astype(np.uint16), 0) == split_position(ids.astype(np.int64), 0) != split_position(ids[:2], 0)


def test_another_seed_is_another_split(source):
    texts = [made_text(source) for _ in range(200)]
    first, again, other = (split_texts(texts, split_seed=seed).split for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_empty_split_is_an_error_that_says_so():
    with pytest.raises(
        DataError, match=r"The (train|validation|test) split got none of the 2 documents.*--split_ratios.*--split_seed"
    ):
        split_texts(["one text here", "another one there"])
    with pytest.raises(DataError, match="The train split got none of the 0 documents"):
        split_texts([])


def test_leaving_an_empty_split_out_as_it_is_told_to_moves_no_training_document():
    texts = [text_in("train", random.Random(number)) for number in range(4)] + [text_in("validation", random.Random(7))]
    with pytest.raises(DataError, match="The test split got none of the 5 documents") as told:
        split_texts(texts)
    ratios = re.search(r"--split_ratios (\S+), or", str(told.value)).group(1)
    assert ratios == "0.8,0.2,0"
    assert {name: list(members) for name, members in split_texts(texts, split_ratios=ratios).members().items()} == {
        "train": [0, 1, 2, 3],
        "validation": [4],
    }


@pytest.mark.parametrize("ratios", ["0.9,0.1,0", "0.8,0.1,0.1"])
def test_where_nothing_is_held_out_all_is_trained_on_as_it_is_told(ratios):
    texts = [text_in("train", random.Random(number)) for number in range(4)]
    assert max(split_position(text, 0) for text in texts) < 0.8
    with pytest.raises(DataError, match=r"The validation split got none of the 4 documents.*--split_ratios 1,0,0, or"):
        split_texts(texts, split_ratios=ratios)
    assert split_texts(texts, split_ratios="1,0,0").members()["train"].tolist() == [0, 1, 2, 3]


def test_a_split_that_lost_all_to_copies_is_an_error_that_says_so(source):
    kept = text_in("test", source)
    copies = [edit_in("validation", kept, 0.1, source) for _ in range(3)]
    with pytest.raises(DataError, match=r"validation split lost all of its 3 documents as copies.*--dedup off"):
        split_texts([kept, text_in("train", source), *copies])


# --- copies


def test_copies_in_one_split_are_dropped_and_counted(source, filler):
    kept = text_in("train", source)
    result = split_texts([kept, kept, longer_in("train", kept), *filler])
    assert (result.split[:3] == 0).sum() == 1
    assert len(result.dropped()["exact copy"]) == 1
    assert len(result.dropped()["near-duplicate"]) == 1


def test_together_keeps_near_copies_in_one_split_and_drops_exact_ones(source, filler):
    kept = text_in("train", source)
    texts = [kept, kept, longer_in("train", kept), longer_in("validation", kept), *filler]
    result = split_texts(texts, dedup="together")
    # The one whose place is validation wins; none of the others may stand in training.
    assert result.split[:4].tolist() == [DROPPED, DROPPED, DROPPED, 1]
    result = split_texts(texts[:3] + filler, dedup="together")
    assert result.split[:3].tolist() == [0, DROPPED, 0]


def test_off_leaves_all_but_exact_copies_across_splits(source, filler):
    kept = text_in("train", source)
    result = split_texts([kept, kept, longer_in("validation", kept), *filler], dedup="off")
    assert result.split[:3].tolist() == [0, 0, 1]
    result = split_texts([kept, kept, *filler], own=["validation", None] + [None] * 9, dedup="off")
    assert result.split[:2].tolist() == [1, DROPPED]
    assert result.dropped() == {"exact copy of a held-out document": np.array([1])}


@pytest.mark.parametrize(("held_out", "other"), [("validation", "train"), ("test", "train"), ("test", "validation")])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_held_out_copy_stays(held_out, other, share, source, filler):
    kept = text_in(held_out, source)
    result = split_texts([edit_in(other, kept, share, source), kept, *filler])
    assert result.split[:2].tolist() == [DROPPED, SPLITS.index(held_out)]
    assert result.dropped()["near-duplicate of a held-out document"].tolist() == [0]


def test_what_is_only_alike_within_a_split_stays(source, filler):
    """A tenth changed is too near for another split, and too far to be thrown away."""
    kept = text_in("train", source)
    result = split_texts([kept, edit_in("train", kept, 0.1, source), *filler])
    assert result.split[:2].tolist() == [0, 0]


def test_a_document_falls_with_its_own_neighbour_and_not_by_a_chain(source, filler):
    """Of a - b - c only what is itself like the held-out a is left out."""
    words = [made_text(source, 40) for _ in range(4)]
    near, far = f"{words[0]} {words[1]} {words[2]}", f"{words[1]} {words[2]} {words[3]}"
    held_out = edit_in("validation", f"{words[0]} {words[1]}", 0.02, source)
    while split_position(near, 0) >= 0.8 or split_position(far, 0) >= 0.8:
        near, far = f"{near} {source.choice(WORDS)}", f"{far} {source.choice(WORDS)}"
    assert similarity(*signatures([near, far], 2)) >= 0.4 > similarity(*signatures([held_out, far], 2))
    assert split_texts([held_out, near, far, *filler]).split[:3].tolist() == [1, DROPPED, 0]


# --- groups and the user's own splits


def test_a_group_stays_in_one_split_whatever_its_texts(source):
    texts = [made_text(source) for _ in range(400)]
    groups = [f"repository {number % 40}" for number in range(400)]
    result = split_texts(texts, groups, split_ratios=HALF)
    for group in set(groups):
        assert len({split for split, name in zip(result.split.tolist(), groups, strict=True) if name == group}) == 1
    assert set(result.split.tolist()) == {0, 1, 2}
    ungrouped = split_texts(texts, [""] * 400, split_ratios=HALF)
    assert np.array_equal(ungrouped.split, split_texts(texts, split_ratios=HALF).split)


def test_a_copy_between_groups_stays_in_the_group_that_is_held_out(source):
    groups = [f"repository {number}" for number in range(40)]
    texts = [made_text(source) for _ in groups]
    alone = split_texts(texts, groups, split_ratios=HALF).split.tolist()
    held_out, trained = alone.index(2), alone.index(0)
    copy = edited(texts[held_out], 0.05, source)
    result = split_texts([*texts, copy], [*groups, groups[trained]], split_ratios=HALF)
    assert result.split.tolist() == [*alone, DROPPED]


def test_own_splits_win_over_place(source, filler):
    mine = text_in("train", source)
    trained = text_in("test", source)
    texts = [
        *(mine, edit_in("test", mine, 0.05, source), edit_in("train", mine, 0.05, source), mine),
        *(trained, edit_in("validation", trained, 0.02, source), trained),
    ]
    own = ["validation", None, None, None, "train", None, None]
    result = split_texts([*texts, *filler], own=own + [None] * len(filler))
    assert result.split[:7].tolist() == [1, DROPPED, DROPPED, DROPPED, 0, DROPPED, DROPPED]
    dropped = {reason: indices.tolist() for reason, indices in result.dropped().items()}
    assert dropped == {
        "exact copy of a held-out document": [3],
        "near-duplicate of a held-out document": [1, 2],
        "copy of a document whose split is given": [5, 6],
    }


def test_of_own_splits_the_held_out_one_wins(source):
    text = made_text(source)
    texts = [text, edited(text, 0.05, source), edited(text, 0.05, source), *(made_text(source) for _ in range(3))]
    result = split_texts(texts, own=["train", "validation", "test", "train", "validation", "test"])
    assert result.split.tolist() == [DROPPED, DROPPED, 2, 0, 1, 2]


def test_ratios_ask_nothing_of_a_corpus_whose_splits_are_all_given(source):
    result = split_texts([made_text(source) for _ in range(3)], own=["train", "train", "validation"])
    assert {name: len(members) for name, members in result.members().items()} == {"train": 2, "validation": 1}
    with pytest.raises(DataError, match="The train split got none of the 2 documents"):
        split_texts([made_text(source) for _ in range(2)], own=["test", "validation"])


# --- what must hold for any corpus


def corpus(source: random.Random) -> tuple[list[str], list[str], list[str | None]]:
    """Texts, some of them copies of others in whole or in part, some in groups, some with a split of their own."""
    texts: list[str] = [made_text(source, source.choice([1, 3, 10, 60, 200])) for _ in range(120)]
    for _ in range(120):
        texts.append(edited(source.choice(texts), source.choice([0, 0.005, 0.02, 0.1, 0.2]), source))
    groups = [source.choice(["", "", "", "a", "b", "c"]) for _ in texts]
    own = [source.choice([None] * 12 + ["train", "validation", "test"]) for _ in texts]
    return texts, groups, own


@pytest.mark.parametrize("dedup", ["drop", "together"])
@pytest.mark.parametrize("seed", range(4))
def test_added_documents_move_none_and_bring_none_back(seed, dedup):
    source = random.Random(seed)
    columns = list(zip(*corpus(source), strict=True))
    source.shuffle(columns)
    before: dict[int, int] = {}
    standing: set[tuple[str, int]] = set()
    for end in (110, 130, 131, 200, 240):
        present = source.sample(range(end), end)
        result = split_texts(*zip(*(columns[number] for number in present), strict=True), dedup=dedup, split_ratios=HALF)
        after = dict(zip(present, result.split.tolist(), strict=True))
        for number, split in before.items():
            # Which of several exact copies in one split stays goes by their order: it is the text that must not move.
            back = split == DROPPED and (columns[number][0], after[number]) in standing
            assert after[number] in (split, DROPPED) or back, (end, number)
        before = after
        standing = {(columns[number][0], split) for number, split in after.items() if split != DROPPED}
        assert 0 < len(standing) < end


@pytest.mark.parametrize("dedup", ["drop", "together"])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_stands_on_two_sides(seed, dedup):
    texts, groups, own = corpus(random.Random(seed))
    args = DataArguments()
    result = split_texts(texts, groups, own, dedup=dedup, split_ratios=HALF)
    rows = signatures(texts, args.dedup_shingle)
    crossing = looked_at = 0
    for one, split in enumerate(result.split.tolist()):
        for other in np.flatnonzero((result.split != DROPPED) & (result.split != split)) if split != DROPPED else ():
            looked_at += 1
            # Further above the threshold than banding may miss.
            crossing += similarity(rows[one], rows[other]) >= args.dedup_threshold + 0.1
            assert texts[one] != texts[other]
            assert result.cluster[one] != result.cluster[other]
    assert looked_at > 1000
    assert crossing == 0
    assert len(result.dropped()) >= 4


@pytest.mark.parametrize(
    "flags",
    [{"dedup_threshold": 0.95}, {"dedup_drop_threshold": 0.3}, {"dedup_drop_threshold": 1.1}, {"dedup_threshold": 0}],
)
def test_thresholds_that_cannot_be(flags):
    with pytest.raises(ConfigError, match="--dedup_"):
        DataArguments(**flags)
