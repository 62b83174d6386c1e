"""Processes that a test started end with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from child_runs import Child


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
