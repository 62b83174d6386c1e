"""What a model was trained on, by the records of its run and of the runs that it goes back to."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.data.prepared import CARD
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
    """The prepared data of the model's run; None where they are gone or were prepared anew otherwise, or it is of no run."""
    record = record_of(model)
    data = _of(record, "data")
    path, fingerprint = data.get("path"), data.get("fingerprint")
    if not isinstance(path, str) or fingerprint is None:
        return None
    folder = _begun_in(record) / Path(path).expanduser()
    return folder if _card(folder).get("fingerprint") == fingerprint else None


def trained_on(model: Path, given: Iterable[str]) -> list[str]:
    """Which of some files and folders are among what a model, or one that it was made from, was trained on.

    A folder is where it holds a file that was trained on, or lies in a folder that was. Whether a file of it was kept for
    validation or test is not looked at.
    """
    known: dict[Path, list[list[str]]] = {}
    for path, suffixes in _trained(model, _GENERATIONS):
        known.setdefault(path, []).append(suffixes)
    above = {parent for path in known for parent in path.parents}

    def seen(path: Path) -> bool:
        whole = (suffixes for parent in path.parents for suffixes in known.get(parent, ()))
        return path in known or path in above or any(_taken(path, suffixes) for suffixes in whole)

    return [path for path in given if "://" not in path and any(map(seen, _meant(Path(), path)))]


def training_sources(card: Mapping[str, Any]) -> list[str]:
    """The paths of the sources in a data card that the training split is from, or may be."""
    sources = card.get("sources")
    told = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    paths = [source.get("path") for source in told if source.get("split") in (None, "train")]
    return [path for path in paths if isinstance(path, str)]


def _of(record: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = record.get(name)
        record = value if isinstance(value, dict) else {}
    return record


def _begun_in(record: dict[str, Any]) -> Path:
    """What the paths in a run's record are relative to."""
    return Path(str(record.get("folder", ".")))


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = read_json(folder / CARD)
    except DataError:
        return {}
    return card if isinstance(card, dict) else {}


def _trained(model: Path, generations: int) -> Iterator[tuple[Path, list[str]]]:
    """Each file or folder that was trained on, resolved, with the suffixes that were taken; all of them where none."""
    record = record_of(model)
    if not record or not generations:
        return
    folder, settings, tuned = _begun_in(record), _of(record, "config", "data"), _of(record, "config", "finetune")
    suffixes = [str(item) for item in settings.get("suffixes") or []]
    paths = [settings.get("corpus")]
    rows = tuned.get("train_file")
    if isinstance(rows, str):  # of a folder, one file of it: the others are held out
        paths.append(f"{rows}/train.jsonl" if (folder / Path(rows).expanduser()).is_dir() else rows)
    data = prepared_for(model)
    if data is not None:
        yield data.resolve(), []
        paths += training_sources(_card(data))
    for path in paths:
        if isinstance(path, str) and "://" not in path:
            for found in _meant(folder, path):
                yield found, suffixes
    base = tuned.get("from_pretrained")
    if isinstance(base, str) and not tuned.get("from_scratch"):
        start = folder / Path(base).expanduser()
        yield from _trained(start / "final" if (start / RUN_RECORD).is_file() else start, generations - 1)


def _meant(folder: Path, given: str) -> list[Path]:
    """The file or folder that a path from `folder` is, or all that a glob finds, resolved; what exists is no glob."""
    path = Path(given).expanduser()
    if glob.has_magic(given) and not (folder / path).exists():
        return [(folder / found).resolve() for found in glob.iglob(str(path), root_dir=folder, recursive=True)]
    return [(folder / path).resolve()]


def _taken(path: Path, suffixes: list[str]) -> bool:
    return path.is_dir() or not suffixes or path.name.endswith(tuple(suffixes))
