"""Reading a source in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.sources.units import Unit, find_units, read_unit

Found = tuple[list[Unit], list[Document], Account]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def write(root: Path) -> Callable[[dict[str, str | bytes]], Path]:
    """Writes files, by name, into `root`."""

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write


@pytest.fixture
def load() -> Callable[..., Found]:
    """The units of a source, their documents, and the account of both."""

    def load(path: Path | str, **settings) -> Found:
        account = Account()
        units = list(find_units(Source(path=str(path), **settings), account))
        return units, [document for unit in units for document in read_unit(unit, account)], account

    return load
