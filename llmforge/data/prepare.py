"""Corpus → splits → tokenizer → packed rows on disk, done once for the same content and settings."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data import arrow
from llmforge.data.allot import Allotment, allot, tokenizer_sample, training_texts
from llmforge.data.card import markdown, source_cards, split_card, tokenizer_card, vocabulary_line
from llmforge.data.corpus import Corpus
from llmforge.data.dataset_writer import write_dataset_dict
from llmforge.data.documents import IdRange
from llmforge.data.encode import TokenizedCorpus
from llmforge.data.formats.templates import save_templates, templates_of
from llmforge.data.mixing import mix
from llmforge.data.picture import LengthsPicture
from llmforge.data.prepared import CARD, CONTENT, DOCUMENTS, ROW_FORMAT, PreparedDataset, load_prepared, tokenizer_digest
from llmforge.data.reading import READING, read_shards
from llmforge.data.shards import KEPT_DAYS, digest, sweep_shards
from llmforge.data.sources.cutting import FEW_DOCUMENTS
from llmforge.data.sources.remote import sweep_downloads
from llmforge.errors import ConfigError
from llmforge.runtime.launch import rank
from llmforge.runtime.logs import logger, printable
from llmforge.runtime.versions import installed_versions
from llmforge.storage.files import cache_root, new_folder, sweep_partial
from llmforge.storage.records import json_text
from llmforge.tokenization import FILES, fetch, load, train_tokenizer

#: What of the data's settings makes other rows; the rest says where text is or how it is read, which the content shows.
_SETTINGS = ("split_seed", "block_size", "dedup", "dedup_threshold", "dedup_drop_threshold", "dedup_shingle")
#: Share of near-duplicates from which the threshold may be wrong for the text.
_MANY = 0.2


@dataclass
class _Stages:
    """Seconds of each stage, and bars that show them."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        from tqdm import tqdm

        started = time.perf_counter()
        bar: tqdm[Any] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                hidden = rank() != 0 or not sys.stderr.isatty()
                bar = tqdm(total=total, unit="B", unit_scale=True, desc=name, delay=1, leave=False, disable=hidden)
            bar.update(done - bar.n)

        try:
            yield progress
        finally:
            if bar is not None:
                bar.close()
        self.seconds[name] = round(time.perf_counter() - started, 3)


def prepare_dataset(
    data: DataArguments, tokenizer: TokenizerArguments | None = None, output_dir: Path | str | None = None
) -> PreparedDataset:
    """Make the dataset that `data` and `tokenizer` describe, or find it made.

    Args:
        data: Corpus, split and row length; with `dataset_dir`, that folder is loaded and nothing is made.
        tokenizer: What to train or to reuse.
        output_dir: Where to put it; by default the cache, under a name made of content and settings.

    Returns:
        The dataset, loaded lazily.

    Raises:
        DataError: The corpus cannot be used, or a split comes out empty.
        ConfigError: The tokenizer cannot be used, or `output_dir` holds something else.
        StorageError: Nothing could be written; nothing half-written is left.
    """
    tokenizer = tokenizer or TokenizerArguments()
    if data.dataset_dir is not None:
        return load_prepared(data.dataset_dir)
    for made in ("datasets", "tokenizers"):  # what a killed process had half-written there
        sweep_partial(cache_root() / made)
    # Resolved: the folder is put in place by its name, which `.` is not.
    target = Path(output_dir).expanduser().resolve() if output_dir is not None else None
    if target is not None:
        sweep_partial(target.parent, target.name)
        tokenizer = _keep_tokenizer(target, tokenizer)
    with LengthsPicture() as picture:
        return _prepare(data, tokenizer, target, picture)


def _prepare(
    data: DataArguments, tokenizer: TokenizerArguments, output_dir: Path | None, picture: LengthsPicture
) -> PreparedDataset:
    """`prepare_dataset` from a corpus."""
    stages = _Stages()
    given = _given_tokenizer(tokenizer)
    with stages.stage("reading") as progress:
        corpus = read_shards(data, _id_range(given), progress)
    for number, source in enumerate(corpus.sources):
        _tell(source.name if len(corpus.sources) > 1 else "corpus", corpus.account(number).lines())
    if corpus.sections:
        size = f"{corpus.sections / 1024:.1f} KB"
        _tell(
            "corpus",
            [f"fewer than {FEW_DOCUMENTS} documents: cut at blank lines into sections of about {size}, which count as such"],
        )
    with stages.stage("splitting"):
        allotment = allot(corpus, data)
    _tell("splits", allotment.dropped.lines())
    _warn_of_many(allotment, len(corpus), data)
    with stages.stage("tokenizer"):
        chosen = tokenizer_sample(corpus, allotment.splits["train"], data.tokenizer_sample)
        folder = given or _trained_tokenizer(tokenizer, corpus, chosen)
    tokenizer_hash = tokenizer_digest(folder)
    content = digest([corpus.hashes.tobytes(), *corpus.names.to_pylist()])
    settings = _settings(data)
    fingerprint = digest([json.dumps([ROW_FORMAT, READING, content, settings, tokenizer_hash])])
    target = output_dir or cache_root() / "datasets" / fingerprint
    if (target / CARD).exists():
        found = load_prepared(target)
        if found.fingerprint == fingerprint:
            logger.info("data: already prepared, nothing is tokenized again (%s)", target)
            return replace(found, reused=True)
    with stages.stage("tokenizing") as progress:
        tokens = TokenizedCorpus(corpus, load(folder), tokenizer_hash, allotment.blocks, progress)
        _drop_empty(corpus, tokens, allotment)
    card: dict[str, Any] = {"fingerprint": fingerprint, "row_format": ROW_FORMAT, "versions": installed_versions()}
    with new_folder(target, replace=output_dir is not None) as staging:
        with stages.stage("packing"):
            card |= _write_splits(staging, corpus, tokens, allotment, data, picture)
        shutil.copytree(folder, staging / "tokenizer")
        save_templates(settings.get("templates", {}), staging / "tokenizer")
        card |= source_cards(corpus, content) | {"settings": settings, "dropped": allotment.dropped.as_json()}
        card["tokenizer"] = tokenizer_card(tokens, tokenizer_hash, trained=given is None)
        card |= {"boilerplate": allotment.boilerplate, "clusters": allotment.clusters, "seconds": stages.seconds}
        (staging / "data_card.md").write_text(markdown(card), encoding="utf-8")
        (staging / CARD).write_text(json_text(card), encoding="utf-8")
    sweep_shards(cache_root())
    sweep_downloads(KEPT_DAYS)
    return load_prepared(target)


def _tell(what: str, lines: list[str]) -> None:
    for line in lines:
        logger.info("%s: %s", printable(what), printable(line))


def _drop_empty(corpus: Corpus, tokens: TokenizedCorpus, allotment: Allotment) -> None:
    """Take documents out that were boilerplate and nothing else."""
    for chosen in allotment.splits.values():
        for index in np.flatnonzero(chosen & (tokens.lengths == 0)).tolist():
            allotment.dropped.skip("nothing but boilerplate", str(corpus.names[index]))
            chosen[index] = False


def _warn_of_many(allotment: Allotment, documents: int, data: DataArguments) -> None:
    near = sum(count for reason, count in allotment.dropped.skipped.items() if "near" in reason)
    if near > _MANY * documents:
        logger.warning(
            "splits: %.0f%% of the documents were left out as near-duplicates. Where they only look alike, as texts made "
            "from a template do, raise --dedup_threshold (now %g) or give --dedup off.",
            100 * near / documents,
            data.dedup_threshold,
        )


def _settings(data: DataArguments) -> dict[str, Any]:
    mixture = [(source.name, source.weight, source.split, source.trim_boilerplate) for source in data.sources()]
    plain = {name: getattr(data, name) for name in _SETTINGS}
    # Without weights and the like, the same corpus is the same wherever it lies.
    mixed = any(values[1:] != (None, None, False) for values in mixture)
    templates = templates_of(data.sources())
    plain |= {"templates": templates} if templates else {}
    return plain | {"split_ratios": list(data.ratios()), "mixture": [list(values) for values in mixture] if mixed else []}


def _keep_tokenizer(target: Path, args: TokenizerArguments) -> TokenizerArguments:
    """The frozen tokenizer of an existing dataset, unless a new one is asked for."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--output_dir {target} is a file.", "Give a folder.")
    if not target.exists() or not any(target.iterdir()):
        return args
    if not (target / CARD).is_file() or not {item.name for item in target.iterdir()} <= CONTENT:
        raise ConfigError(
            f"--output_dir {target} holds something that is no prepared dataset, and would be replaced.", "Give another folder."
        )
    own = target / "tokenizer"
    if args.retrain_tokenizer or args.tokenizer is not None:
        return args
    kept = load(own)
    if args.vocab_size not in (None, kept.requested) or any(
        kept.backend.token_to_id(token) is None for token in args.special_tokens
    ):
        raise ConfigError(
            f"{target} has a tokenizer already, made with other settings, and it is frozen.",
            "Give --retrain_tokenizer, or leave --vocab_size and --special_tokens out.",
        )
    return replace(args, tokenizer=str(own))


def _given_tokenizer(args: TokenizerArguments) -> Path | None:
    """A folder in the cache with the tokenizer that is given, if one is."""
    if args.tokenizer is None:
        return None
    given = Path(args.tokenizer).expanduser()
    source = str(given) if given.is_dir() else args.tokenizer
    local = [path for path in (given / name for name in FILES) if path.is_file()]
    folder = cache_root() / "tokenizers" / digest([path.read_bytes() for path in local] or [source])
    if not folder.exists():
        with new_folder(folder) as staging:
            fetch(source, staging)
    return folder


def _id_range(folder: Path | None) -> IdRange | None:
    """What token ids of the tokenizer in `folder` may be."""
    if folder is None:
        return None
    tokenizer = load(folder)
    return IdRange(len(tokenizer), tokenizer.end_of_text, tokenizer.pad, tokenizer_digest(folder))


def _trained_tokenizer(args: TokenizerArguments, corpus: Corpus, chosen: np.ndarray) -> Path:
    """A folder in the cache with a tokenizer of the documents where `chosen` is true."""
    key = digest([json.dumps([args.vocab_size, args.min_frequency, args.special_tokens]), corpus.hashes[chosen].tobytes()])
    folder = cache_root() / "tokenizers" / key
    if not folder.exists():
        logger.info("tokenizer: training on %s documents", f"{int(chosen.sum()):,}")
        with new_folder(folder) as staging:
            train_tokenizer(training_texts(corpus, chosen), args, progress=sys.stderr.isatty()).save(staging)
    trained = load(folder)
    logger.info("tokenizer: %s", vocabulary_line(len(trained), trained.requested))
    return folder


def _mixed(corpus: Corpus, tokens: TokenizedCorpus, repeats: dict[str, np.ndarray], data: DataArguments) -> list[dict[str, Any]]:
    """Set how often training documents come, by their sources' weights; what came of it, for the card."""
    weights = [source.weight for source in corpus.sources]
    if all(weight is None for weight in weights):
        return []
    names = [source.name for source in corpus.sources]
    train = repeats["train"]
    own = [np.flatnonzero((corpus.source_numbers == number) & (train > 0)) for number in range(len(names))]
    found = mix([tokens.lengths[m] for m in own], [corpus.hashes[m, 0] for m in own], weights, names, data.split_seed)
    for members, counts in zip(own, found.counts, strict=True):
        train[members] = counts
    weighted = sum(share for share, weight in zip(found.shares, weights, strict=True) if weight is not None)
    wanted = sum(weight or 0.0 for weight in weights)
    cards = []
    for name, weight, share, times in zip(names, weights, found.shares, found.repeats, strict=True):
        goal = share if weight is None else weighted * weight / wanted
        cards.append({"source": name, "weight": weight, "wanted": goal, "achieved": share, "repeats": times})
        logger.info("mixture: %s is %.1f%% of the training tokens, each document %.2f times", printable(name), 100 * share, times)
    return cards


def _write_splits(
    folder: Path, corpus: Corpus, tokens: TokenizedCorpus, allotment: Allotment, data: DataArguments, picture: LengthsPicture
) -> dict[str, Any]:
    repeats = {name: chosen.astype(np.int64) for name, chosen in allotment.splits.items()}
    mixture = _mixed(corpus, tokens, repeats, data)
    numbers = np.cumsum(np.sum(list(repeats.values()), axis=0) > 0) - 1
    lengths = {name: tokens.lengths[times > 0] for name, times in repeats.items()}
    cards: dict[str, Any] = {}
    picture.draw(lengths, data.block_size, folder / "document_lengths.png")
    for name, times in repeats.items():
        written = tokens.write_split(folder / "dataset" / name, times, numbers, data.block_size, count=name == "train")
        places = np.repeat(np.arange(len(times)), times)
        sizes = corpus.sizes[places], tokens.lengths[places]
        cards[name] = split_card(*sizes, written.rows, written.tokens, data.block_size)
    write_dataset_dict(folder / "dataset", list(cards))
    _write_documents(folder / DOCUMENTS, corpus, tokens, repeats, numbers)
    picture.finish()
    return {"splits": cards, "mixture": mixture}


def _write_documents(
    path: Path, corpus: Corpus, tokens: TokenizedCorpus, repeats: dict[str, np.ndarray], numbers: np.ndarray
) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for split, times in repeats.items():
            members = np.flatnonzero(times)
            columns = (numbers, corpus.source_numbers, corpus.sizes, tokens.lengths)
            figures = zip(*(column[members].tolist() for column in columns), strict=True)
            for name, (number, source, size, length) in zip(corpus.names.take(arrow.numbers(members)), figures, strict=True):
                line = {"document": number, "split": split, "source": source, "name": str(name), "bytes": size, "tokens": length}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
