"""Installed packages: what llmforge asks for and what is there, what clashes, what each extra still needs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_OWN = "llmforge"
#: Extras that users install; the others are for work on llmforge itself.
_NOT_FOR_USERS = ("dev",)
#: Packages whose version others ask for: of two that disagree, one breaks.
_SHARED = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "fsspec",
    "peft",
    "huggingface-hub",
    "pyarrow",
)
_OLDEST = (3, 11)


def look_at_packages(machine: Machine) -> Iterator[Finding]:
    """Python, llmforge's requirements, other packages' requirements on the same libraries, extras."""
    there = machine.distributions()
    version = platform.python_version()
    if sys.version_info < _OLDEST:
        remedy = "Make an environment with Python 3.11 or newer."
        yield Finding("python", "failure", f"Python {version} is too old.", remedy, "broken-installation")
    else:
        yield Finding("python", "ok", f"{platform.python_implementation()} {version}, {sys.executable}")
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        yield _missing(["packaging"])
        return
    own = there.get(_OWN)
    if own is None:
        text = "llmforge runs from a folder and is not installed: versions are not compared."
        yield Finding("packages", "note", text, "pip install -e .", "broken-installation")
        return
    needed = [Requirement(line) for line in own.requires or []]
    plain = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    absent = [item.name for item in plain if _name(item) not in there]
    if absent:
        yield _missing(absent)
    wrong = [item for item in plain if _name(item) in there and not _fits(item, there)]
    for item in wrong:
        text = f"{item.name} {there[_name(item)].version} is installed, and llmforge {own.version} wants {item.specifier}."
        yield Finding("packages", "warning", text, f"pip install '{item.name}{item.specifier}'", "broken-installation")
    clashes = 0
    for other in there.values():
        for line in other.requires or [] if other is not own else []:
            try:
                item = Requirement(line)
            except InvalidRequirement:
                continue
            if _name(item) not in _SHARED or _name(item) not in there or _fits(item, there):
                continue
            if item.marker is None or item.marker.evaluate({"extra": ""}):
                clashes += 1
                text = f"{other.metadata['Name']} {other.version} wants {item.name}{item.specifier}; {item.name} is "
                text += there[_name(item)].version
                remedy = f"Update or remove it: pip install --upgrade {other.metadata['Name']}"
                yield Finding("packages", "warning", f"{text}.", remedy, "broken-installation")
    if not absent and not wrong and not clashes:
        yield Finding("packages", "ok", f"llmforge {own.version}; its {len(plain)} requirements are met, and no package clashes")
    yield from _extras(own, needed, there)


def _extras(own: metadata.Distribution, needed: list[Requirement], there: dict[str, metadata.Distribution]) -> Iterator[Finding]:
    """One note for all extras that are not whole."""
    lacking = []
    for extra in own.metadata.get_all("Provides-Extra") or []:
        if extra in _NOT_FOR_USERS:
            continue
        asked = [item for item in needed if item.marker is not None and item.marker.evaluate({"extra": extra})]
        asked = [item for item in asked if not item.marker or not item.marker.evaluate({"extra": ""})]
        absent = [item.name for item in asked if not _fits(item, there)]
        if absent:
            lacking.append((extra, absent))
    if lacking:
        told = ", ".join(f"{extra} (lacks {', '.join(absent)})" for extra, absent in lacking)
        wanted = ",".join(extra for extra, _ in lacking)
        remedy = f"If you want them: pip install 'llmforge[{wanted}]'"
        yield Finding("extras", "note", f"not installed: {told}", remedy, "broken-installation")


def _missing(names: list[str]) -> Finding:
    text = f"not installed, and llmforge needs them: {', '.join(names)}"
    return Finding("packages", "failure", text, f"pip install {' '.join(names)}", "broken-installation")


def _name(item: Requirement) -> str:
    return item.name.lower().replace("_", "-").replace(".", "-")


def _fits(item: Requirement, there: dict[str, metadata.Distribution]) -> bool:
    found = there.get(_name(item))
    # A local part (2.13.0+cpu) names a build; pre-releases are what nightly builds are.
    return found is not None and item.specifier.contains(found.version.partition("+")[0], prereleases=True)
