"""What the reliability tests share: an undisturbed run to compare with, and processes that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from reliability.child_runs import Child
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


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts children: ``start(function, name)``."""
    children: list[Child] = []

    def begin(function: Callable[[], int | None], name: str = "child") -> Child:
        children.append(Child(function, name))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
