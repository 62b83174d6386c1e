"""The rows of a task as packed rows: several examples share one, and the loss is on what is to be learnt.

An example is a document, ``^ prompt completion`` with ``^`` for the end-of-text token, and its last target is that token. With
rows of 12, prompts in small letters and completions in capitals::

    input_ids   ^ a b C D ^ e f g H _ _
    targets     a b C D ^ e f g H ^
    loss_mask   [2, 3, 3, 2]              targets in turn not learnt and learnt: a b, C D ^, e f g, H ^
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmforge.data.card import split_card
from llmforge.data.documents import Account
from llmforge.data.packing import Rows, pack
from llmforge.data.prepared import CARD, DOCUMENTS, ROW_FORMAT, PreparedDataset, load_prepared
from llmforge.data.rows import to_dataset
from llmforge.data.shards import digest
from llmforge.errors import DataError
from llmforge.runtime.logs import logger
from llmforge.runtime.versions import installed_versions
from llmforge.storage.files import cache_root, new_folder
from llmforge.storage.records import json_text
from llmforge.tasks.prompts import cut_parts
from llmforge.tasks.rows import Row
from llmforge.tasks.task import Piece, Task
from llmforge.tokenization import FILES, TextTokenizer, load

#: Raised whenever the same rows and settings would give other packed ones.
_VERSION = 2
#: Rows that are encoded together.
_TOGETHER = 1000
#: Tokens of the shortest row that is chosen; several examples share it anyway.
_SHORTEST = 64
_NOTHING_LEFT = "completion that the cut leaves nothing of"


class Example(NamedTuple):
    """A row in token ids.

    Attributes:
        ids: Without the end-of-text token that it starts with.
        learnt: bool, one longer: whether each of `ids`, and what follows them, is learnt.
        follows: The id that follows: the end of text, or what was cut off.
        cut: Tokens that were cut off.
    """

    ids: np.ndarray
    learnt: np.ndarray
    follows: int
    cut: int


@dataclass
class Encoder:
    """Makes examples of a task's rows.

    Attributes:
        task: Renders them.
        tokenizer: The model's.
        block_size: Tokens of an example at most, the one that it starts with included.
        completion_only: Whether the prompt is not learnt.
    """

    task: Task
    tokenizer: TextTokenizer
    block_size: int
    completion_only: bool = True

    def examples(self, rows: Sequence[Row]) -> Iterator[Example]:
        """One for each row.

        Raises:
            DataError: A row lacks what the task needs.
        """
        for start in range(0, len(rows), _TOGETHER):
            pieces = [self.task.pieces(row.values, row.where) for row in rows[start : start + _TOGETHER]]
            ids = self._encode([piece.text for row in pieces for piece in row])
            for row in pieces:
                yield self._example(row, [next(ids) for _ in row])

    def _example(self, pieces: list[Piece], ids: list[np.ndarray]) -> Example:
        end = self.tokenizer.end_of_text
        whole = np.concatenate(ids)
        learnt = np.repeat([piece.learnt or not self.completion_only for piece in pieces], [len(part) for part in ids])
        if len(whole) and whole[-1] == end:  # a chat template's own: it follows every document anyway
            whole, learnt = whole[:-1], learnt[:-1]
        learnt = np.append(learnt, True)
        most = self.block_size - 1
        if len(whole) <= most:
            return Example(whole, learnt, end, 0)
        if self.task.truncate == "left":
            return Example(whole[-most:], learnt[-most - 1 :], end, len(whole) - most)
        return Example(whole[:most], learnt[: most + 1], int(whole[most]), len(whole) - most)

    def _encode(self, texts: list[str]) -> Iterator[np.ndarray]:
        """The ids of each text; special tokens that a chat's template writes are what they are, and not their text."""
        cut = cut_parts(texts, self._added, self.task.written)
        plain = self.tokenizer.encode(piece for pieces in cut for piece in pieces if isinstance(piece, str))
        for pieces in cut:
            found = [next(plain) if isinstance(piece, str) else np.array([piece], self.tokenizer.dtype) for piece in pieces]
            yield np.concatenate([np.zeros(0, self.tokenizer.dtype), *found])

    @cached_property
    def _added(self) -> dict[str, int]:
        added = json.loads(self.tokenizer.backend.to_str())["added_tokens"]
        return {item["content"]: item["id"] for item in added}


def fitting_size(splits: Mapping[str, Sequence[Row]], task: Task, tokenizer: Path, positions: int) -> int:
    """Tokens of a row that suits a task: the power of two that its longest example fits in, within the model's `positions`."""
    encoder = Encoder(task, load(tokenizer), sys.maxsize)
    longest = max((len(example.ids) + 1 for rows in splits.values() for example in encoder.examples(rows)), default=1)
    return min(max(1 << (longest - 1).bit_length(), _SHORTEST), positions)


def pack_examples(examples: Sequence[Example], block_size: int, end: int, pad: int) -> Rows:
    """Examples as packed rows, with `Rows.learnt`; each is called by its place."""
    rows = pack([example.ids for example in examples], range(len(examples)), block_size, end, pad)
    learnt = np.zeros(rows.input_ids.shape, dtype=bool)
    for row in range(len(rows)):
        start = 0
        for segment in range(rows.offsets[row], rows.offsets[row + 1]):
            example, length = examples[rows.documents[segment]], int(rows.lengths[segment])
            learnt[row, start : start + length] = example.learnt  # no example is longer than a row, and so none is cut
            rows.targets[segment] = example.follows
            start += length
    rows.learnt = learnt
    return rows


def prepare_task(
    splits: Mapping[str, Sequence[Row]],
    task: Task,
    tokenizer: Path,
    block_size: int,
    completion_only: bool = True,
    dropped: Account | None = None,
) -> PreparedDataset:
    """The packed dataset of a task's rows, made in the cache or found there.

    Args:
        splits: Rows by split, train among them.
        task: What they are for.
        tokenizer: The folder of the model's tokenizer, with a padding token.
        block_size: Tokens in a row.
        completion_only: Whether prompts are not learnt.
        dropped: What splitting left out, for the card.

    Raises:
        DataError: A row lacks what the task needs, or nothing of a split is left to learn.
        StorageError: Nothing could be written.
    """
    dropped = dropped or Account()
    text = load(tokenizer)
    key = digest((tokenizer / name).read_bytes() for name in FILES)
    content = digest(json.dumps([name, [row.values for row in rows]], ensure_ascii=False) for name, rows in splits.items())
    settings = {
        "block_size": block_size,
        "completion_only": completion_only,
        "task": task.to_yaml(),
        "special": dict(task.special),
    }
    fingerprint = digest([json.dumps([ROW_FORMAT, _VERSION, content, settings, key])])
    target = cache_root() / "datasets" / fingerprint
    if (target / CARD).exists():
        logger.info("data: already prepared, nothing is tokenized again (%s)", target)
        found = load_prepared(target)
    else:
        encoder = Encoder(task, text, block_size, completion_only)
        with new_folder(target) as staging:
            card = _write(staging, splits, encoder, dropped)
            _copy_tokenizer(tokenizer, staging / "tokenizer")
            task.save(staging)
            card |= {"fingerprint": fingerprint, "row_format": ROW_FORMAT, "versions": installed_versions(), "settings": settings}
            card["tokenizer"] = {
                "vocab_size": len(text),
                "requested_vocab_size": text.requested,
                "trained_here": False,
                "hash": key,
                "end_of_text_id": text.end_of_text,
                "pad_token_id": text.pad,
            }
            (staging / CARD).write_text(json_text(card), encoding="utf-8")
            (staging / "data_card.md").write_text(_markdown(card, task, completion_only), encoding="utf-8")
        found = load_prepared(target)
    tell(found, task)
    return found


def _markdown(card: Mapping[str, Any], task: Task, completion_only: bool) -> str:
    """The card for people."""
    learnt = "the completions" if completion_only else "prompts and completions"
    lines = ["# Data card", "", f"Rows of the task `{task.name}`; {learnt} are learnt.", ""]
    lines += ["| split | rows of text | bytes | tokens | learnt | cut off |", "|---|---:|---:|---:|---:|---:|"]
    for name, split in card["splits"].items():
        figures = (split["documents"], split["bytes"], split["tokens"], split["learnt_tokens"], card["truncated"][name])
        lines.append(f"| {name} | {' | '.join(f'{figure:,}' for figure in figures)} |")
    left_out = [f"- left out: {line}" for line in Account.from_json(card["dropped"]).lines()]
    return "\n".join([*lines, *([""] if left_out else []), *left_out, ""])


def tell(data: PreparedDataset, task: Task) -> None:
    """Say what of the rows was cut off or left out."""
    for name, count in data.card["truncated"].items():
        if count:
            side = "beginning" if task.truncate == "left" else "end"
            logger.warning(
                "%s: of %d rows the %s is cut off: they are longer than the context of %d tokens",
                name,
                count,
                side,
                data.block_size,
            )
    for line in Account.from_json(data.card["dropped"]).lines():
        logger.info("data: %s", line)


def _copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():  # a chat template among them
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


def _write(folder: Path, splits: Mapping[str, Sequence[Row]], encoder: Encoder, dropped: Account) -> dict[str, Any]:
    from datasets import DatasetDict, disable_progress_bars

    disable_progress_bars()
    made: dict[str, Any] = {}
    cards: dict[str, Any] = {}
    truncated: dict[str, int] = {}
    lines: list[str] = []
    end, pad, size = encoder.tokenizer.end_of_text, encoder.tokenizer.pad, encoder.block_size
    for name, rows in splits.items():
        kept: list[tuple[Row, Example]] = []
        truncated[name] = 0
        for row, example in zip(rows, encoder.examples(rows), strict=True):
            truncated[name] += example.cut > 0
            if example.learnt.any():
                kept.append((row, example))
            else:
                dropped.skip(_NOTHING_LEFT, row.where)
        if not kept:
            raise DataError(
                f"The {name} split has nothing to learn: {len(rows):,} rows, and the context is {size} tokens.",
                "Give more rows, a longer --block_size, or `truncate: left` in the task.",
            )
        packed = pack_examples([example for _, example in kept], size, end, pad)
        packed.documents += len(lines)
        made[name] = to_dataset(packed)
        sizes = [sum(len(piece.text.encode()) for piece in encoder.task.pieces(row.values, row.where)) for row, _ in kept]
        lengths = [len(example.ids) for _, example in kept]
        cards[name] = split_card(np.array(sizes), np.array(lengths), len(packed), packed.tokens, size)
        assert packed.learnt is not None
        cards[name]["learnt_tokens"] = int(packed.learnt.sum())
        for (row, _), amount, length in zip(kept, sizes, lengths, strict=True):
            line = {"document": len(lines), "split": name, "source": 0, "name": row.where, "bytes": amount, "tokens": length}
            lines.append(json.dumps(line, ensure_ascii=False))
    DatasetDict(made).save_to_disk(str(folder / "dataset"))
    (folder / DOCUMENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    sources = [
        {"name": encoder.task.name, "documents": len(lines), "format": "jsonl", "skipped": {}, "examples": {}, "changed": {}}
    ]
    return {"sources": sources, "splits": cards, "truncated": truncated, "dropped": dropped.as_json(), "task": encoder.task.name}
