"""Distributions of parameters and gradients."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmforge.callbacks.histograms import _MOST, Histograms
from llmforge.errors import ConfigError


@pytest.fixture
def model():
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1))
    model(torch.ones(1, 4)).sum().backward()
    model[1].bias.grad = None
    return model


@pytest.fixture
def seen():
    return []


@pytest.fixture
def callback(seen):
    def show(values, step):
        seen.extend((name, array, step) for name, array in values.items())

    callback = Histograms(7)
    callback.attach(SimpleNamespace(trackers=SimpleNamespace(histograms=show)))
    return callback


def test_parameters_and_gradients_every_so_many_steps(callback, seen, model, arguments, state, control):
    for state.global_step in range(15):
        callback.on_pre_optimizer_step(arguments, state, control, model=model)
    assert sorted({step for _, _, step in seen}) == [7, 14]
    values = {name: array for name, array, step in seen if step == 7}
    assert set(values) == {f"histograms/parameters/{name}" for name, _ in model.named_parameters()} | {
        f"histograms/gradients/{name}" for name in ("0.weight", "0.bias", "1.weight")
    }
    np.testing.assert_array_equal(values["histograms/parameters/0.weight"], model[0].weight.detach().flatten())
    np.testing.assert_array_equal(values["histograms/gradients/1.weight"], model[1].weight.grad.flatten())


def test_what_is_handed_over_does_not_change_with_the_weights(callback, seen, model, arguments, state, control):
    state.global_step = 6
    callback.on_pre_optimizer_step(arguments, state, control, model=model)
    before = seen[0][1].copy()
    with torch.no_grad():
        model[0].weight += 1
    np.testing.assert_array_equal(seen[0][1], before)


def test_of_a_large_tensor_only_a_part_is_taken(callback, seen, arguments, state, control):
    state.global_step = 6
    large = torch.nn.Linear(1000, 1000, bias=False)
    callback.on_pre_optimizer_step(arguments, state, control, model=large)
    assert _MOST / 2 < len(seen[0][1]) <= _MOST


def test_the_part_is_of_every_column(callback, seen, arguments, state, control):
    """A stride that divides the width would show the same few columns of each row."""
    state.global_step = 6
    wide = torch.nn.Linear(256, 4096, bias=False)
    with torch.no_grad():
        wide.weight.copy_(torch.arange(256.0).repeat(4096, 1))
    callback.on_pre_optimizer_step(arguments, state, control, model=wide)
    assert len(np.unique(seen[0][1])) == 256


def test_a_parameter_without_values_and_no_steps_between(callback, seen, arguments, state, control):
    state.global_step = 6
    callback.on_pre_optimizer_step(arguments, state, control, model=torch.nn.ParameterList([torch.empty(0)]))
    assert len(seen[0][1]) == 0
    with pytest.raises(ConfigError, match="every 0 steps"):
        Histograms(0)


def test_other_processes_do_nothing(callback, seen, model, arguments, another_process, control):
    another_process.global_step = 6
    callback.on_pre_optimizer_step(arguments, another_process, control, model=model)
    assert seen == []


def test_without_a_tracker_nobody_would_see_them(callback, arguments, state, control):
    arguments.report_to = ["none"]
    with pytest.raises(ConfigError, match="--histogram_steps needs a tracker"):
        callback.on_train_begin(arguments, state, control)
    arguments.report_to = ["tensorboard"]
    callback.on_train_begin(arguments, state, control)


def test_it_says_that_it_needs_forge_trainer(arguments, state, control):
    with pytest.raises(ConfigError, match="Histograms needs ForgeTrainer"):
        Histograms(5).on_train_begin(arguments, state, control)
