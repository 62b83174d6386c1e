"""What a model was trained on, by the records of its run and of the runs that it goes back to."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge.runtime.run_folder import RUN_RECORD
from llmforge.storage.records import read_json

#: A fine-tuned model has a base, which may have one, and so on; a record that names itself ends here.
_GENERATIONS = 8


def record_of(model: Path) -> dict[str, Any]:
    """``run.json`` of the run whose ``final/`` or checkpoint `model` is; empty where there is none that can be read."""
    try:
        record = read_json(model.resolve().parent / RUN_RECORD)
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


def prepared_for(model: Path) -> Path | None:
    """The prepared data of the model's run; None where they are gone, or the model is of no run."""
    path = _of(record_of(model), "data").get("path")
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def trained_on(model: Path, given: Iterable[str]) -> list[str]:
    """Which of some files and folders are among what a model, or one that it was made from, was trained on.

    A folder is where it holds a file that was trained on, or lies in a folder that was. Whether a file of it was kept for
    validation or test is not looked at.
    """
    places = list(_trained(model, _GENERATIONS))
    return [path for path in given if any(_overlap(place, path) for place in places)]


def _of(record: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = record.get(name)
        record = value if isinstance(value, dict) else {}
    return record


def _trained(model: Path, generations: int) -> Iterator[tuple[Path, list[str]]]:
    """Each file, folder or glob that was trained on, absolute, with the suffixes that were taken; all of them where none."""
    record = record_of(model)
    if not record or not generations:
        return
    folder, settings = Path(str(record.get("folder", "."))), _of(record, "config", "data")
    suffixes = [str(item) for item in settings.get("suffixes") or []]
    paths = [settings.get("corpus"), _of(record, "config", "finetune").get("train_file")]
    data = prepared_for(model)
    try:
        card = read_json(data / "data_card.json") if data is not None else {}
    except DataError:
        card = {}
    sources = card.get("sources") if isinstance(card, dict) else None
    told = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    paths += [source.get("path") for source in told if source.get("split") in (None, "train")]
    for path in paths:
        if isinstance(path, str) and "://" not in path:
            yield folder / Path(path).expanduser(), suffixes
    base = _of(record, "config", "finetune").get("from_pretrained")
    if isinstance(base, str) and not _of(record, "config", "finetune").get("from_scratch"):
        start = folder / Path(base).expanduser()
        yield from _trained(start / "final" if (start / RUN_RECORD).is_file() else start, generations - 1)


def _overlap(place: tuple[Path, list[str]], given: str) -> bool:
    trained, suffixes = place
    if "://" in given:
        return False
    found = [Path(given).expanduser().resolve()]
    if glob.has_magic(given):
        found = [Path(path).resolve() for path in glob.iglob(given, recursive=True)]
    known = [trained.resolve()]
    if glob.has_magic(str(trained)) and not trained.exists():
        known = [Path(path).resolve() for path in glob.iglob(str(trained), recursive=True)]
    pairs = [(one, other) for one in found for other in known]
    return any(one == other or one in other.parents or (other in one.parents and _taken(one, suffixes)) for one, other in pairs)


def _taken(path: Path, suffixes: list[str]) -> bool:
    return path.is_dir() or not suffixes or path.name.endswith(tuple(suffixes))
