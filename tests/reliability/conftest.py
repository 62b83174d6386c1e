"""What the reliability tests share: an undisturbed run to compare with."""

from __future__ import annotations

import pytest
from reliability.harness import training, weights


@pytest.fixture(scope="session")
def undisturbed(tokenizer, tmp_path_factory):
    """The weights at the end of a run that nothing happened to, by preset; made once each."""
    made: dict = {}

    def get(preset: str = "gpt2-10m", **changes):
        key = (preset, *sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            trainer = training(folder, tokenizer, preset, **changes)
            trainer.train()
            made[key] = weights(folder, trainer.state.global_step)
        return made[key]

    return get
