"""Versions of the library and of the stack under it, without importing any of it."""

from __future__ import annotations

from importlib import metadata

_STACK = ("llmforge", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def installed_versions() -> dict[str, str | None]:
    """Version of each package of the stack, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for package in _STACK:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
