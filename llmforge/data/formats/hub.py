"""Datasets of the Hugging Face hub, streamed, and such as `save_to_disk` wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import RecordReader, no_field, optional_fields, required_fields, uses_whole_record
from llmforge.errors import DataError

#: Short names of datasets → their ids, and the subset that is read if none is given.
SHORT_NAMES = {"smollm-corpus": ("HuggingFaceTB/smollm-corpus", "cosmopedia-v2")}


def documents(source: Source, account: Account) -> Iterator[Document]:
    """The documents of a hub dataset, or of a folder, each called ``path#number`` from 1.

    A folder that `save_to_disk` wrote is read as it is. Any other folder (of Parquet or JSONL files), and a hub id,
    is streamed by `datasets.load_dataset`: nothing is downloaded as a whole. ``smollm-corpus`` stands for
    HuggingFaceTB/smollm-corpus, of which ``cosmopedia-v2`` is read unless `source.subset` says otherwise.
    Remote code is never run. `source.max_documents` records are read at most; `source.max_files` does not count here.

    Args:
        source: Names the dataset, its subset and split, and the fields.
        account: Counts what is left out.

    Raises:
        DataError: There is no such dataset, subset, split or field; or it cannot be reached or read.
        ConfigError: The template cannot be used.
    """
    reader = RecordReader(source, account)
    dataset = _loaded(source)
    number = 0
    try:
        known = dataset.column_names  # None where a stream does not tell before it is read
        if known is not None:
            for path in required_fields(source):
                if path not in known and path.split(".")[0] not in known:
                    no_field(source, _named(source), path, known)
            if not uses_whole_record(source):
                paths = [*required_fields(source), *optional_fields(source)]
                used = {path if path in known else path.split(".")[0] for path in paths}
                dataset = dataset.select_columns([name for name in known if name in used])
        for number, record in enumerate(itertools.islice(dataset, source.max_documents), start=1):
            document = reader.document(record, f"{source.path}#{number}")
            if document is not None:
                yield document
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        remedy = "Go online and start again." if isinstance(error, ConnectionError) else "Mend it, or read another one."
        raise DataError(f"{_named(source)} cannot be read after record {number}: {_first_line(error)}", remedy) from error


def _loaded(source: Source) -> Any:
    """The split, with rows that are iterated over."""
    import datasets

    folder = Path(source.path).expanduser()
    is_saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    path, subset = SHORT_NAMES.get(source.path, (source.path, None))
    if folder.exists():
        path, subset = str(folder), None
    try:
        if is_saved:
            saved = datasets.load_from_disk(str(folder))
            if not isinstance(saved, datasets.DatasetDict):
                return saved
            if source.subset_split not in saved:
                remedy = f"Give --subset_split one of {', '.join(saved)}."
                raise DataError(f"{_named(source)} has no split {source.subset_split!r}.", remedy)
            return saved[source.subset_split]
        return datasets.load_dataset(path, source.subset or subset, split=source.subset_split, streaming=True)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        remedy = "Check the path, --subset and --subset_split."
        if isinstance(error, ConnectionError):
            remedy = "Go online, or give a folder."
        elif "split" in str(error).lower() and source.subset_split in str(error):
            remedy = "Give another --subset_split."
        elif "BuilderConfig" in str(error) or "Config name is missing" in str(error):
            remedy = "Give --subset one of those."
        raise DataError(f"{_named(source)} cannot be read: {_first_line(error)}", remedy) from error


def _named(source: Source) -> str:
    return f"--source path={source.path}"


def _first_line(error: BaseException) -> str:
    """What an error of the library says, in one line that ends in a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # "Config name is missing." is followed by the names, a line down.
    text = " ".join(lines[:2])[:400]
    return ascii(text)[1:-1].replace("\\'", "'").rstrip(".") + "."
