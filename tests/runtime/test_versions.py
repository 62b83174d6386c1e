"""What is installed, told without importing it."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmforge.runtime.versions import stack_versions, torch_build

#: The lines of torch/version.py that differ, as the wheels of each index have them.
BUILDS = {
    "CPU": "cuda: Optional[str] = None\nhip: Optional[str] = None\nrocm: Optional[str] = None\nxpu: Optional[str] = None",
    "CUDA 12.8": "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\nrocm: Optional[str] = None\nxpu: Optional[str] = None",
    "ROCm 7.1": "cuda: Optional[str] = None\nhip: Optional[str] = '7.1.25424-4179531dcd'\nrocm: Optional[str] = '7.1'",
    # Older wheels have no line for ROCm.
    "ROCm 6.4": "cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43483-a187df25c'",
    "XPU 20250302": "cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = '20250302'",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put another PyTorch in the place of the one that is there: its version.py, or None for no file at all."""

    def place(version: str | None) -> None:
        if version is not None:
            (tmp_path / "version.py").write_text(version)
        (tmp_path / "__init__.py").write_text("raise ImportError('a build that this machine cannot load')")
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "torch" else None)

    return place


@pytest.mark.parametrize("build", list(BUILDS))
def test_the_build_is_read_from_its_file(build: str, installed):
    installed(f"from typing import Optional\n__version__ = '2.13.0'\n{BUILDS[build]}\n")
    assert torch_build() == build


@pytest.mark.parametrize("text", [None, "", "no python at all ("])
def test_a_torch_that_is_half_there_stops_nothing(text: str | None, installed):
    installed(text)
    assert torch_build() is None


def test_without_torch_there_is_no_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch_build() is None


def test_it_is_what_the_installed_torch_says_of_itself():
    said = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    assert torch_build().startswith(said)
    assert stack_versions()["torch"] == torch.__version__


def test_what_is_not_installed_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch):
    version = metadata.version

    def without_peft(package: str) -> str:
        if package == "peft":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", without_peft)
    found = stack_versions()
    assert found["peft"] is None
    assert list(found)[:4] == ["llmforge", "python", "torch", "torch_build"]
