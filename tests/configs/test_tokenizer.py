"""Which tokenizer."""

from __future__ import annotations

import pytest

from llmforge.configs.tokenizer import END_OF_TEXT, PAD, SMALLEST_VOCAB, TokenizerArguments


@pytest.mark.parametrize("size", [SMALLEST_VOCAB - 1, 0, -1])
def test_vocabulary_holds_at_least_every_byte(refused, size: int):
    assert str(SMALLEST_VOCAB) in refused(TokenizerArguments, "vocab_size", size, vocab_size=size).remedy


def test_own_tokens_need_room_too(refused):
    fields = {"vocab_size": SMALLEST_VOCAB + 1, "special_tokens": ["<A>", "<B>"]}
    assert str(SMALLEST_VOCAB + 2) in refused(TokenizerArguments, "vocab_size", SMALLEST_VOCAB + 1, **fields).remedy
    assert TokenizerArguments(vocab_size=SMALLEST_VOCAB + 2, special_tokens=["<A>", "<B>"])


@pytest.mark.parametrize("frequency", [0, -1])
def test_frequency_is_at_least_one(refused, frequency: int):
    refused(TokenizerArguments, "min_frequency", frequency, min_frequency=frequency)


@pytest.mark.parametrize("tokens", [[""], [END_OF_TEXT], ["<A>", PAD], ["<A>", "<B>", "<A>"]])
def test_own_tokens_that_cannot_be(refused, tokens: list[str]):
    error = refused(TokenizerArguments, "special_tokens", "", special_tokens=tokens)
    assert any(repr(token) in error.problem for token in tokens)


def test_smallest_vocabulary_is_the_bytes_and_two_tokens():
    assert TokenizerArguments(vocab_size=258).vocab_size == 258
