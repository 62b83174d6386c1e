"""The sampler is told its epoch from the step count."""

from __future__ import annotations

import pytest

from llmforge.callbacks.epoch_order import EpochOrder
from llmforge.data.sampler import EpochSampler


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (1, 0), (2, 0), (3, 1), (5, 1), (6, 2), (300, 100)])
def test_the_epoch_follows_from_the_step(arguments, state, control, step, epoch):
    sampler = EpochSampler(rows=10, step_rows=4, seed=0)  # three steps an epoch
    state.global_step = step
    EpochOrder(sampler).on_epoch_begin(arguments, state, control)
    assert sampler.epoch == epoch


def test_a_resumed_epoch_has_the_order_it_had(arguments, state, control):
    first, resumed = (EpochSampler(rows=10, step_rows=4, seed=0) for _ in range(2))
    for step in (0, 3, 6):
        state.global_step = step
        EpochOrder(first).on_epoch_begin(arguments, state, control)
    state.global_step = 7  # one step into the third epoch
    EpochOrder(resumed).on_epoch_begin(arguments, state, control)
    assert list(resumed) == list(first) != list(EpochSampler(rows=10, step_rows=4, seed=0))


def test_an_epoch_of_a_trainer_is_ignored(arguments, state, control):
    """What Trainer believes the epoch to be does not matter."""
    sampler = EpochSampler(rows=10, step_rows=4, seed=0)
    sampler.set_epoch(55)
    state.global_step, state.epoch = 3, 0.5
    EpochOrder(sampler).on_epoch_begin(arguments, state, control)
    assert sampler.epoch == 1
