"""How the format tests read bytes."""

from __future__ import annotations

import io

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account


class Trickle(io.BytesIO):
    """Gives a few bytes at a time, as a pipe or a decompressor may: a reader must not count on getting what it asked for."""

    def read(self, size=-1):
        return super().read(min(size, 3) if size and size > 0 else size)


@pytest.fixture
def gather():
    """Read `data` by a format's module: its documents, and the account."""

    def read(module, data: bytes, name: str = "f.x", trickle: bool = False, options=None, **settings):
        account = Account()
        source = Source(path="x", **settings)
        file = Trickle(data) if trickle else io.BytesIO(data)
        return list(module.read(file, name, source, account, **(options or {}))), account

    return read
