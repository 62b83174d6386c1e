"""Made-up state for calling hooks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState


@pytest.fixture
def control() -> TrainerControl:
    return TrainerControl()


@pytest.fixture
def arguments(tmp_path) -> SimpleNamespace:
    """What callbacks read of TrainingArguments."""
    return SimpleNamespace(output_dir=str(tmp_path / "out"), seed=7, disable_tqdm=False, save_strategy="no")


@pytest.fixture
def state() -> TrainerState:
    """The state at step 20 of 300, in the first process."""
    return TrainerState(global_step=20, max_steps=300, is_world_process_zero=True, is_local_process_zero=True)


@pytest.fixture
def another_process(state) -> TrainerState:
    state.is_world_process_zero = state.is_local_process_zero = False
    return state
