"""What is chosen for a time, a speed and a corpus."""

from __future__ import annotations

import math

import pytest

from llmforge.planning.corpus import bytes_per_token
from llmforge.planning.dial import LADDER, MOST_EPOCHS, TOKENS_A_WEIGHT, Pinned, choose, operations
from llmforge.planning.speed import flops_per_token

#: Two cores, in operations a second.
CPU = 1e11
BOOK, CODE = 700e3, 63e6


def test_the_ladder_rises():
    weights = [layers * width**2 for layers, width in LADDER]
    assert weights == sorted(set(weights))


def test_operations_are_counted_as_for_a_model():
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_config
    from llmforge.planning.shapes import shape_from

    shape = shape_from(build_config(ModelArguments(preset="gpt2-10m", n_layer=3, n_embd=64, n_head=2), 1024))
    assert operations(3, 64, 1024, 256) == flops_per_token(shape, 256)


@pytest.mark.parametrize("corpus", [BOOK, CODE, 10e9])
def test_more_time_or_a_faster_device_is_never_a_smaller_model(corpus):
    made = [choose(seconds, CPU, corpus) for seconds in (10, 60, 300, 1200, 36_000, 10**6)]
    assert [one.weights for one in made] == sorted(one.weights for one in made)
    assert made[0].weights < made[-1].weights
    assert choose(60, 20 * CPU, corpus).weights == choose(1200, CPU, corpus).weights


@pytest.mark.parametrize("seconds", [300, 1200, 10**5])
def test_the_time_is_enough_for_the_model(seconds):
    choice = choose(seconds, CPU, CODE)
    assert choice.tokens >= TOKENS_A_WEIGHT * choice.weights
    assert not choice.ends_early
    assert choice.tokens * choice.operations == pytest.approx(seconds * CPU)
    assert choice.evaluation_rows * choice.block_size / 3 < 0.01 * choice.tokens


def test_a_vocabulary_is_not_larger_than_its_text():
    sizes = [choose(10**6, CPU, corpus).vocabulary for corpus in (50e3, BOOK, CODE, 10e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 512
    assert sizes[1] * 80 <= BOOK


def test_epochs_are_counted_in_tokens_and_bring_dropout():
    few, many, most = (choose(seconds, CPU, corpus) for seconds, corpus in ((300, CODE), (40, BOOK), (5000, BOOK)))
    assert (few.dropout, few.epochs < 1) == (0.0, True)
    assert many.epochs == pytest.approx(many.tokens / BOOK * bytes_per_token(many.vocabulary))
    assert 0 < many.dropout < most.dropout


def test_a_small_corpus_is_not_read_for_as_long_as_there_is_time():
    short, long = choose(3, CPU, 130e3), choose(10_000, CPU, 130e3)
    assert (short.ends_early, long.ends_early) == (False, True)
    assert long.epochs == MOST_EPOCHS
    assert choose(20_000, CPU, 130e3).tokens == long.tokens
    for epochs in (3.0, 40.0, math.inf):  # what the user says
        choice = choose(10_000, CPU, 130e3, Pinned(epochs=epochs))
        assert choice.epochs == pytest.approx(min(epochs, choice.afforded / choice.unique))


def test_a_step_has_more_tokens_where_there_are_more_and_is_shared_evenly():
    short, long = choose(300, CPU, 10e9), choose(10**6, CPU, 10e9)
    assert short.step_tokens < long.step_tokens
    assert choose(300, CPU, 10e9, processes=3).step_rows % 3 == 0
    tiny = choose(1200, CPU, 30e3)
    assert tiny.unique / tiny.step_tokens > 4  # an epoch is a few steps at least


def test_what_is_pinned_stays():
    pinned = Pinned(shape=(7, 224), vocabulary=3000, block_size=333, step_rows=5)
    choice = choose(300, CPU, CODE, pinned)
    assert (choice.layers, choice.width, choice.vocabulary, choice.block_size, choice.step_rows) == (7, 224, 3000, 333, 5)


@pytest.mark.parametrize("corpus", [104e3, 320e3, BOOK])
def test_more_time_than_a_corpus_is_good_for_is_no_larger_model(corpus):
    enough, more = choose(10**5, CPU, corpus), choose(10**9, CPU, corpus)
    assert (enough.layers, enough.width) == (more.layers, more.width)
    assert more.weights <= max(4.1 * more.unique, 12 * 4 * 64**2)
    assert more.width >= 64
    assert more.layers >= 4


def test_rows_of_a_step_are_the_nearest_power_of_two():
    choice = choose(300, CPU, CODE, Pinned(shape=(3, 96)))
    wanted = 1.3 * choice.tokens**0.5 / choice.block_size
    assert choice.step_rows / 2**0.5 <= wanted < choice.step_rows * 2**0.5


def test_rows_are_no_longer_than_the_positions_that_were_given():
    assert choose(300, CPU, CODE, Pinned(longest=100)).block_size == 100
    assert choose(300, CPU, CODE, Pinned(longest=9000)).block_size == choose(300, CPU, CODE).block_size
