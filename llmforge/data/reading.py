"""A corpus into shards of the cache: what has changed is read and cleaned, by several processes, and the rest is found."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal as signals
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmforge.configs.data import DataArguments
from llmforge.configs.source import Source
from llmforge.data.boilerplate import block_hashes
from llmforge.data.cleaning import clean_document
from llmforge.data.corpus import Corpus
from llmforge.data.dedup import PERMUTATIONS, SIGNATURE_VERSION, signatures, text_hash
from llmforge.data.documents import Account, Document, IdRange
from llmforge.data.formats.templates import template_of
from llmforge.data.functions import load_function
from llmforge.data.shards import TextShard, digest, shard_path, text_shard
from llmforge.data.sources.corpus import nothing_found
from llmforge.data.sources.cutting import FEW_DOCUMENTS, SECTION_LENGTH, cut_sections
from llmforge.data.sources.known import KnownFiles
from llmforge.data.sources.units import Unit, find_units, read_unit
from llmforge.data.splits import split_position
from llmforge.errors import DataError
from llmforge.runtime.children import without_script
from llmforge.runtime.devices import available_cores
from llmforge.runtime.logs import logger
from llmforge.storage.files import Placing, cache_root

#: Raised whenever reading or cleaning gives other documents than before from the same files.
READING = 1


#: A corpus has some so many shards, of at least and at most so many bytes.
_SHARDS, _SMALLEST, _LARGEST = 64, 2**20, 2**24


#: One name in so many ends a shard that is large enough: borders hang on names, so that a new file changes one shard only.
_BORDER = 8


#: Bytes of small shards that are made together.
_MADE_TOGETHER = 2**22


#: Below so many bytes to read, a second process costs more than it gives.
_WORTH_A_PROCESS = 16 * 2**20


_SIGNED_AT_ONCE = 2**18


#: So many sections a small corpus is cut into, unless they would be smaller than so many characters.
_SECTIONS, _SMALLEST_SECTION = 100, 512


#: Settings of a source that concern what is done with its documents, not what they are.
_NOT_READING = ("path", "weight", "name", "split", "max_files")


@dataclass(frozen=True)
class _Job:
    """A text shard to make."""

    path: Path
    units: tuple[Unit, ...]
    source: Source
    ids: IdRange | None
    sections: int
    shingle: int
    seed: int

    @property
    def size(self) -> int:
        return sum(unit.size for unit in self.units)


def _make_several(jobs: Sequence[_Job]) -> None:
    """Make shards, which are all in place at the end."""
    with Placing() as placing:
        for job in jobs:
            _make(job, placing)


def _make(job: _Job, placing: Placing) -> None:
    """Read, clean and sign the documents of one shard."""
    nothing = np.zeros(0, dtype=np.uint32)
    with text_shard(job.path, PERMUTATIONS if job.shingle else 0, placing) as writer:
        for documents in _batched(_read(job, writer.account)):
            contents = [document.text if document.ids is None else document.ids for document in documents]
            signed = signatures(contents, job.shingle) if job.shingle else [nothing] * len(documents)
            for document, content, signature in zip(documents, contents, signed, strict=True):
                blocks = block_hashes(document.text, document.kind) if document.ids is None else nothing
                writer.add(document, text_hash(content), split_position(content, job.seed), signature, blocks)


def _read(job: _Job, account: Account) -> Iterator[Document]:
    for unit in job.units:
        for document in read_unit(unit, account, job.ids):
            cleaned = document if document.ids is not None else clean_document(document, job.source, account)
            if cleaned is not None:
                whole = not job.sections or cleaned.ids is not None or job.source.content != "text"
                yield from (cleaned,) if whole else cut_sections(cleaned, job.sections)


def _batched(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents in lists of some hundred kilobytes: signing many short ones at once is several times as fast."""
    waiting: list[Document] = []
    size = 0
    for document in documents:
        waiting.append(document)
        size += len(document.text) if document.ids is None else 4 * len(document.ids)
        if size >= _SIGNED_AT_ONCE:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def read_shards(
    data: DataArguments,
    ids: IdRange | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    in_sections: bool = True,
) -> Corpus:
    """The corpus that `data` describes, read and cleaned as far as the cache does not have it.

    Args:
        data: Sources and their settings.
        ids: What the ids of sources of token ids may be.
        progress: Is told the bytes done and to do, as shards are made.
        in_sections: Whether few large documents are cut into sections, for there to be something to split.

    Raises:
        DataError: A source cannot be read, or there is no text at all.
        StorageError: The cache cannot be written.
    """
    sources = data.sources()
    for source in sources:
        if source.format == "npz" and ids is None:
            raise DataError(f"{source.name}: token ids need the tokenizer they were made with.", "Give --tokenizer.")
    found = [Account() for _ in sources]
    units = [_found(source, account) for source, account in zip(sources, found, strict=True)]
    enough = _shard_size(sum(unit.size for own in units for unit in own))
    # What is kept of every document besides its text.
    marks = (0 if data.dedup == "off" else data.dedup_shingle, data.split_seed)

    def shards(sections: int) -> Corpus:
        jobs = [
            (number, _job(source, group, ids if source.format == "npz" else None, sections, *marks))
            for number, source in enumerate(sources)
            for group in _grouped(units[number], enough)
        ]
        missing = [job for _, job in jobs if not job.path.exists() or not all(unit.digest for unit in job.units)]
        _make_all(missing, data.prepare_workers, progress)
        made = [(number, TextShard(job.path)) for number, job in jobs]
        for _, shard in made:
            os.utime(shard.path)  # in use: not among what is swept from the cache
        return Corpus(sources, made, sections, found)

    corpus = shards(sections=0)
    for number, source in enumerate(sources):
        if not (corpus.source_numbers == number).any():
            raise nothing_found(source, corpus.account(number))
    if in_sections and len(corpus) < FEW_DOCUMENTS and all(source.segment == "file" for source in sources):
        # Of a small corpus, smaller ones: its splits would be empty.
        cut = shards(sections=min(SECTION_LENGTH, max(int(corpus.sizes.sum()) // _SECTIONS, _SMALLEST_SECTION)))
        corpus = cut if len(cut) > len(corpus) else corpus
    return corpus


def _found(source: Source, account: Account) -> list[Unit]:
    known = KnownFiles(source)
    units = list(find_units(source, account, known))
    known.save()
    return units


def _shard_size(total: int) -> int:
    """Bytes from which a shard of a corpus of `total` may end: a power of two, so that it hardly ever changes."""
    return min(max(1 << max(total // _SHARDS, 1).bit_length() - 1, _SMALLEST), _LARGEST)


def _grouped(units: Sequence[Unit], enough: int) -> Iterator[tuple[Unit, ...]]:
    group: list[Unit] = []
    size = 0
    for unit in units:
        if group and size + unit.size > max(_LARGEST, enough):
            yield tuple(group)
            group, size = [], 0
        group.append(unit)
        size += unit.size
        border = int.from_bytes(hashlib.blake2b(unit.name.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big")
        if size >= enough and border % _BORDER == 0:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def _job(source: Source, units: tuple[Unit, ...], ids: IdRange | None, sections: int, shingle: int, seed: int) -> _Job:
    settings = {name: value for name, value in asdict(source).items() if name not in _NOT_READING}
    settings |= {"template": template_of(source), "ids": ids and ids.tokenizer}
    if source.cleaner is not None:
        settings["cleaner_code"] = _code_of(source.cleaner)
    parts = [
        json.dumps([READING, SIGNATURE_VERSION, settings, sections, shingle, seed]),
        *(f"{unit.name}\0{unit.kind}\0{unit.digest}" for unit in units),
    ]
    return _Job(shard_path(cache_root(), "text", digest(parts)), units, source, ids, sections, shingle, seed)


def _code_of(function: str) -> str:
    """The source file of the user's function: another version of it cleans otherwise."""
    import inspect

    try:
        return Path(inspect.getsourcefile(load_function(function, "--cleaner")) or "").read_text(encoding="utf-8")
    except (OSError, TypeError):
        return ""


def _make_all(jobs: Sequence[_Job], workers: int | None, progress: Callable[[int, int], None]) -> None:
    total = sum(job.size for job in jobs)
    workers = min(workers or available_cores(), len(jobs))
    done = 0
    # Largest first, so that no process is left alone with one at the end.
    left = deque(_together(sorted(jobs, key=lambda job: -job.size)))

    def made() -> None:
        nonlocal done
        done += sum(job.size for job in left.popleft())
        progress(done, total)

    if workers > 1 and total >= _WORTH_A_PROCESS:
        try:
            with _processes(workers) as pool:
                with without_script():
                    answers = pool.map(_make_several, left)
                for _ in answers:
                    made()
        except BrokenExecutor:
            logger.warning("data: a reading process was lost; going on with one")
    while left:
        _make_several([job for job in left[0] if not job.path.exists() or not all(unit.digest for unit in job.units)])
        made()


def _together(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Jobs that one process does one after the other: the files of small ones are synced together."""
    group: list[_Job] = []
    for job in jobs:
        group.append(job)
        if sum(job.size for job in group) >= _MADE_TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _processes(workers: int) -> Executor:
    # Not forked: fsspec and the threads of pyarrow do not survive it.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))


def _start_worker(parent: int) -> None:
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # Ctrl-C is the parent's to answer

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the parent was killed: nobody waits for the rest

    threading.Thread(target=watch, daemon=True).start()
