"""Which document goes into which split."""

from __future__ import annotations

import pytest

from llmforge.configs.data import DataArguments
from llmforge.data.documents import Document
from llmforge.data.splits import split_documents, split_position
from llmforge.errors import DataError


def make(count: int, start: int = 0) -> list[Document]:
    return [Document(f"{i}.txt", f"the text of document {i}") for i in range(start, start + count)]


def assignment(documents, **settings) -> dict[str, str]:
    splits = split_documents(documents, DataArguments(**settings))
    return {documents[index].name: name for name, members in splits.items() for index in members}


@pytest.mark.parametrize("ratios", ["0.8,0.1,0.1", "0.5,0.25,0.25", "0.9,0.1,0", "1"])
def test_every_document_is_in_exactly_one_split(ratios):
    splits = split_documents(make(500), DataArguments(split_ratios=ratios))
    assert sorted(index for members in splits.values() for index in members) == list(range(500))
    assert all(members == sorted(members) for members in splits.values())


def test_shares_are_about_right():
    splits = split_documents(make(2000), DataArguments(split_ratios="0.8,0.1,0.1"))
    # Four standard deviations of a binomial count.
    assert len(splits["train"]) == pytest.approx(1600, abs=72)
    assert len(splits["validation"]) == pytest.approx(200, abs=54)
    assert len(splits["test"]) == pytest.approx(200, abs=54)


def test_adding_documents_moves_none():
    before, after = assignment(make(300)), assignment([*make(200, start=1000), *make(300)])
    assert before.items() <= after.items()


def test_renaming_and_reordering_moves_none():
    documents = make(100)
    renamed = [Document(f"other/{document.name}", document.text) for document in reversed(documents)]
    before = assignment(documents)
    assert {name.removeprefix("other/"): split for name, split in assignment(renamed).items()} == before


def test_copies_of_a_text_never_sit_on_both_sides():
    documents = make(300)
    copies = [Document(f"copy of {document.name}", document.text) for document in documents]
    found = assignment([*documents, *copies])
    assert all(found[f"copy of {document.name}"] == found[document.name] for document in documents)


@pytest.mark.parametrize(
    ("ratios", "names"),
    [
        ("0.9,0.1,0", ["train", "validation"]),
        ("0.8,0,0.2", ["train", "test"]),
        ("1", ["train"]),
        ("0.7,0.3", ["train", "validation"]),
    ],
)
def test_a_split_without_a_share_is_absent(ratios, names):
    assert list(split_documents(make(200), DataArguments(split_ratios=ratios))) == names


def test_a_split_that_comes_out_empty_is_an_error_that_says_so():
    with pytest.raises(
        DataError, match=r"The (train|validation|test) split got none of the 2 documents.*--split_seed.*--split_ratios"
    ):
        split_documents(make(2), DataArguments())


def test_another_seed_is_another_split():
    splits = [assignment(make(300), split_seed=seed) for seed in (0, 1)]
    assert splits[0] != splits[1]
    assert assignment(make(300), split_seed=1) == splits[1]


def test_positions_are_frozen():
    """A change here would move documents of every dataset there is between its splits."""
    assert split_position("package main", 0) == pytest.approx(0.26256907469413365, abs=1e-12)
    assert split_position("package main", 7) == pytest.approx(0.2954152291308271, abs=1e-12)
    assert 0 <= split_position("lone \ud800 surrogate", 0) < 1
