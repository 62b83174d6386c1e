"""Corpus → split → tokenizer → packed rows on disk, done once for the same content and settings."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.documents import Document
from llmforge.data.packing import Rows, pack
from llmforge.data.rows import PackedRows, to_dataset
from llmforge.data.sources.corpus import read_corpus
from llmforge.data.splits import split_documents
from llmforge.errors import ConfigError, DataError
from llmforge.runtime.launch import rank
from llmforge.runtime.logs import logger
from llmforge.runtime.versions import installed_versions
from llmforge.storage import cache_root, new_folder, read_json, read_json_lines, write_json, write_text
from llmforge.tokenization import FILES, TextTokenizer, fetch, load, load_pretrained, train_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

#: Raised whenever the same corpus and settings would give other rows than before.
ROW_FORMAT = 1
CARD = "data_card.json"
_CONTENT = {CARD, "data_card.md", "documents.jsonl", "dataset", "tokenizer"}


@dataclass
class PreparedDataset:
    """A folder that `prepare_dataset` made.

    Attributes:
        path: The folder: ``dataset/``, ``tokenizer/``, ``data_card.json``, ``data_card.md``, ``documents.jsonl``.
        card: The data card: what it was made from and what came out.
        reused: Whether it was there already.
    """

    path: Path
    card: dict[str, Any]
    reused: bool = False

    @functools.cached_property
    def dataset(self) -> DatasetDict:
        """The packed splits, memory-mapped."""
        from datasets import DatasetDict

        loaded = DatasetDict.load_from_disk(str(self.path / "dataset"))
        return loaded

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, as transformers knows it."""
        return load_pretrained(self.path / "tokenizer")

    @property
    def block_size(self) -> int:
        """Tokens in a row."""
        return int(self.card["settings"]["block_size"])

    @property
    def fingerprint(self) -> str:
        """Changes whenever content, settings, tokenizer or row format do."""
        return str(self.card["fingerprint"])

    def rows(self, split: str, most: int | None = None) -> PackedRows | None:
        """The rows of `split`, at `most` so many, evenly spread; None where there is no such split."""
        if split not in self.dataset:
            return None
        return PackedRows(self.dataset[split], pad=int(self.card["tokenizer"]["pad_token_id"]), most=most)

    def document_names(self, indices: Sequence[int]) -> list[str]:
        """The names of documents (a file's path in the corpus, mostly) by the numbers that ``segment_documents`` has."""
        names = {line["document"]: line["name"] for line in read_json_lines(self.path / "documents.jsonl")}
        return [str(names.get(index, f"number {index}")) for index in indices]


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
    # Resolved: the folder is put in place by its name, which `.` is not.
    target = Path(output_dir).expanduser().resolve() if output_dir is not None else None
    if target is not None:
        tokenizer = _keep_tokenizer(target, tokenizer)
    started = time.perf_counter()
    documents, report = read_corpus(data)
    for line in report.lines():
        logger.info("corpus: %s", line)
    splits = split_documents(documents, data)
    folder, made = _tokenizer_folder(tokenizer, [documents[index].text for index in splits["train"]])
    content = _digest(f"{document.name}\0{document.text}" for document in documents)
    settings = {"split_ratios": data.ratios(), "split_seed": data.split_seed, "block_size": data.block_size}
    tokenizer_hash = _digest((folder / name).read_text(encoding="utf-8") for name in FILES)
    fingerprint = _digest([json.dumps([ROW_FORMAT, content, settings, tokenizer_hash])])
    target = target or cache_root() / "datasets" / fingerprint
    if (target / CARD).exists():
        found = load_prepared(target)
        if found.fingerprint == fingerprint:
            logger.info("data: already prepared, nothing is tokenized again (%s)", target)
            return replace(found, reused=True)
    text_tokenizer = load(folder)
    with new_folder(target, replace=output_dir is not None) as staging:
        ids = _encode(text_tokenizer, documents)
        card: dict[str, Any] = {
            "fingerprint": fingerprint,
            "row_format": ROW_FORMAT,
            "versions": installed_versions(),
            "corpus": {"path": str(data.corpus), "content": content, **report.as_json()},
            "settings": settings,
            "tokenizer": _tokenizer_card(text_tokenizer, tokenizer_hash, made),
            "splits": _write_splits(staging, documents, splits, ids, text_tokenizer, data.block_size),
        }
        shutil.copytree(folder, staging / "tokenizer")
        card["seconds"] = round(time.perf_counter() - started, 2)
        write_json(staging / CARD, card)
        write_text(staging / "data_card.md", _markdown(card))
    return load_prepared(target)


def load_prepared(path: Path | str) -> PreparedDataset:
    """The dataset in `path`.

    Raises:
        DataError: The folder is none that `prepare_dataset` made, or is of another row format.
    """
    path = Path(path).expanduser()
    if not (path / CARD).is_file() or not (path / "dataset").is_dir():
        raise DataError(f"--dataset_dir {path} is no prepared dataset.", "Make one with `llmforge prepare --output_dir`.")
    card = read_json(path / CARD)
    if card.get("row_format") != ROW_FORMAT:
        raise DataError(f"{path} was made in row format {card.get('row_format')}, not {ROW_FORMAT}.", "Prepare it again.")
    return PreparedDataset(path, card)


def _keep_tokenizer(target: Path, args: TokenizerArguments) -> TokenizerArguments:
    """The frozen tokenizer of an existing dataset, unless a new one is asked for."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--output_dir {target} is a file.", "Give a folder.")
    if not target.exists() or not any(target.iterdir()):
        return args
    if not (target / CARD).is_file() or not {item.name for item in target.iterdir()} <= _CONTENT:
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


def _tokenizer_folder(args: TokenizerArguments, texts: Sequence[str]) -> tuple[Path, bool]:
    """A folder in the cache with the tokenizer, and whether it was trained here."""
    if args.tokenizer is not None:
        given = Path(args.tokenizer).expanduser()
        source = str(given) if given.is_dir() else args.tokenizer
        local = [path for path in (given / name for name in FILES) if path.is_file()]
        key = _digest([path.read_text(encoding="utf-8") for path in local] or [source])
        folder = cache_root() / "tokenizers" / key
        if not folder.exists():
            with new_folder(folder) as staging:
                fetch(source, staging)
        return folder, False
    key = _digest([json.dumps([args.vocab_size, args.min_frequency, args.special_tokens]), *texts])
    folder = cache_root() / "tokenizers" / key
    if not folder.exists():
        logger.info("tokenizer: training on %s documents", f"{len(texts):,}")
        with new_folder(folder) as staging:
            train_tokenizer(texts, args, progress=sys.stderr.isatty()).save(staging)
    trained = load(folder)
    logger.info("tokenizer: %s", vocabulary_line(len(trained), trained.requested))
    return folder, True


def vocabulary_line(reached: int, requested: int | None) -> str:
    """How large the vocabulary came out, and why it fell short if it did."""
    if requested is None or reached >= requested:
        return f"{reached:,} entries"
    return (
        f"{reached:,} entries of the {requested:,} asked for: the training text has no more pairs that occur "
        "often enough (more text, or a smaller --vocab_size, would suit it)"
    )


def _encode(tokenizer: TextTokenizer, documents: Sequence[Document]) -> list[np.ndarray]:
    from tqdm import tqdm

    size = sum(len(document.text) for document in documents)
    ids = []
    with tqdm(total=size, unit="B", unit_scale=True, desc="tokenizing", delay=2, disable=rank() != 0) as bar:
        for document, encoded in zip(documents, tokenizer.encode(item.text for item in documents), strict=True):
            ids.append(encoded)
            bar.update(len(document.text))
    return ids


def _write_splits(
    folder: Path,
    documents: Sequence[Document],
    splits: dict[str, list[int]],
    ids: Sequence[np.ndarray],
    tokenizer: TextTokenizer,
    block_size: int,
) -> dict[str, Any]:
    from datasets import DatasetDict, disable_progress_bars

    cards, tables, lines = {}, {}, []
    for name, members in splits.items():
        rows = pack([ids[index] for index in members], members, block_size, tokenizer.end_of_text, tokenizer.pad)
        tables[name] = to_dataset(rows)
        cards[name] = _split_card([documents[index] for index in members], [ids[index] for index in members], rows)
        for index in members:
            size = len(documents[index].text.encode("utf-8", "surrogatepass"))
            lines.append(
                {"document": index, "split": name, "name": documents[index].name, "bytes": size, "tokens": len(ids[index])}
            )
    disable_progress_bars()
    DatasetDict(tables).save_to_disk(str(folder / "dataset"))
    write_text(folder / "documents.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return cards


def _split_card(documents: Sequence[Document], ids: Sequence[np.ndarray], rows: Rows) -> dict[str, Any]:
    size = sum(len(document.text.encode("utf-8", "surrogatepass")) for document in documents)
    tokens = sum(len(item) for item in ids)
    packed = sum(sum(lengths) for lengths in rows.segment_lengths)
    return {
        "documents": len(documents),
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": round(size / max(tokens, 1), 3),
        "rows": len(rows.input_ids),
        "density": round(packed / max(rows.input_ids.size, 1), 4),
        "longest_document": max((len(item) for item in ids), default=0),
    }


def _tokenizer_card(tokenizer: TextTokenizer, digest: str, trained: bool) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "requested_vocab_size": tokenizer.requested,
        "trained_here": trained,
        "hash": digest,
        "end_of_text_id": tokenizer.end_of_text,
        "pad_token_id": tokenizer.pad,
    }


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _markdown(card: dict[str, Any]) -> str:
    corpus, tokenizer = card["corpus"], card["tokenizer"]
    lines = [
        "# Data card",
        "",
        f"Corpus: `{corpus['path']}`, {corpus['files']:,} files, {corpus['bytes']:,} bytes.",
        f"Rows of {card['settings']['block_size']} tokens; vocabulary: "
        f"{vocabulary_line(tokenizer['vocab_size'], tokenizer['requested_vocab_size'])}.",
        "",
        "| split | documents | bytes | tokens | bytes a token | rows | filled |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, split in card["splits"].items():
        lines.append(
            f"| {name} | {split['documents']:,} | {split['bytes']:,} | {split['tokens']:,} | "
            f"{split['bytes_per_token']} | {split['rows']:,} | {split['density']:.1%} |"
        )
    lines += ["", "Left out:", ""] if corpus["skipped"] else []
    lines += [f"- {count:,} {reason} (e.g. `{corpus['examples'][reason][0]}`)" for reason, count in corpus["skipped"].items()]
    lines += [f"- {what} in {count:,} documents" for what, count in corpus["changed"].items()]
    return "\n".join(lines) + "\n"
