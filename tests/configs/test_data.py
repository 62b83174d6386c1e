"""Which text, which splits, how long a row."""

from __future__ import annotations

import pytest

from llmforge.configs.data import SPLITS, DataArguments


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ("0.8,0.1,0.1", (0.8, 0.1, 0.1)),
        ("0.9,0.1", (0.9, 0.1, 0.0)),
        ("1", (1.0, 0.0, 0.0)),
        ("0.9, 0.1, 0", (0.9, 0.1, 0.0)),
        ("0.7,0.2,0.1", (0.7, 0.2, 0.1)),
        ("0.9,0,0.1", (0.9, 0.0, 0.1)),
    ],
)
def test_shares_of_the_splits(given: str, shares: tuple[float, ...]):
    assert DataArguments(split_ratios=given).ratios() == shares
    assert len(shares) == len(SPLITS)


@pytest.mark.parametrize(
    "given", ["", "a,b", "0.5,0.1", "0.8,0.1,0.2", "1.1,-0.1", "0,1", "0.25,0.25,0.25,0.25", "nan", "0.8;0.2", "inf"]
)
def test_shares_that_are_none(refused, given: str):
    error = refused(DataArguments, "split_ratios", given, split_ratios=given)
    assert "0.8,0.1,0.1" in error.remedy


@pytest.mark.parametrize(
    ("name", "value"), [("block_size", 1), ("block_size", -8), ("max_eval_samples", 0), ("max_eval_samples", -1)]
)
def test_sizes_that_leave_nothing(refused, name: str, value: int):
    refused(DataArguments, name, value, **{name: value})


@pytest.mark.parametrize("format", ["code", "jsonl"])
def test_paragraphs_are_cut_from_text_only(refused, format: str):
    error = refused(DataArguments, "segment", f"--format {format}", segment="paragraph", format=format)
    assert "--format text" in error.remedy


@pytest.mark.parametrize("format", ["auto", "text"])
def test_paragraphs_of_text(format: str):
    assert DataArguments(segment="paragraph", format=format).segment == "paragraph"


def test_suffixes_with_and_without_a_dot():
    assert DataArguments(suffixes=["go", ".mod", "tar.gz"]).suffixes == [".go", ".mod", ".tar.gz"]
    assert DataArguments(suffixes=[".c,h", " .go, "]).suffixes == [".c", ".h", ".go"]


def test_instances_share_no_list():
    DataArguments().suffixes.append(".go")
    assert DataArguments().suffixes == []
