"""Versions of the library and of the stack under it, without importing any of it."""

from __future__ import annotations

import importlib.util
import platform
import runpy
from importlib import metadata
from pathlib import Path
from typing import Any

_STACK = ("llmforge", "torch", "transformers", "accelerate", "datasets", "tokenizers", "peft", "numpy")


def installed_versions() -> dict[str, str | None]:
    """Version of each package of the stack, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for package in _STACK:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def torch_build() -> str | None:
    """What the installed PyTorch was built for, ``CPU``, ``CUDA 12.8`` or ``ROCm 7.1``; None without PyTorch.

    Read from ``torch/version.py`` alone: importing torch takes seconds, and a build that does not fit the machine may
    not be importable at all.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        built: dict[str, Any] = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    except Exception:  # half removed, or not PyTorch's
        return None
    # A ROCm build names HIP's version too, with its commit: 7.1.25424-4179531dcd.
    rocm = built.get("rocm") or ".".join(str(built.get("hip") or "").split(".")[:2])
    if rocm:
        return f"ROCm {rocm}"
    if built.get("cuda"):
        return f"CUDA {built['cuda']}"
    if built.get("xpu"):
        return f"XPU {built['xpu']}"
    return "CPU" if "cuda" in built else None


def stack_versions() -> dict[str, str | None]:
    """The whole stack, for a report of what is installed: `installed_versions`, Python's own and `torch_build`."""
    versions = installed_versions()
    first = {"llmforge": versions.pop("llmforge"), "python": platform.python_version()}
    return first | {"torch": versions.pop("torch"), "torch_build": torch_build()} | versions
