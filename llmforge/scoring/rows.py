"""The rows of a task that a model is evaluated on: which file, what task, and how they look to the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmforge.configs.evaluation import EvaluationArguments
from llmforge.data.rows import PackedRows, to_dataset
from llmforge.data.shards import digest
from llmforge.errors import DataError
from llmforge.runtime.logs import logger
from llmforge.scoring.fields import answered
from llmforge.tasks.examples import Encoder, Example, pack_examples
from llmforge.tasks.rows import Row
from llmforge.tasks.splits import read_row_file, task_of_rows
from llmforge.tasks.task import Task
from llmforge.tokenization import from_pretrained_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmforge.pretrained.loading import Pretrained


@dataclass
class TestRows:
    """Rows to evaluate on.

    Attributes:
        rows: Each with what answers it.
        task: What they are for.
        name: What they are called in a report.
    """

    __test__ = False  # for pytest

    rows: list[Row]
    task: Task
    name: str

    @property
    def fingerprint(self) -> str:
        """Other rows, or another task, have another one."""
        return digest([self.task.to_yaml(), *(json.dumps(row.values, ensure_ascii=False) for row in self.rows)])

    def for_model(self, found: Pretrained) -> TestRows:
        """The same as the model is asked: a chat goes through its tokenizer's own template."""
        return TestRows(self.rows, self.task.for_tokenizer(found.tokenizer), self.name)

    def references(self) -> list[str]:
        """What should be answered, as the text of an answer is."""
        return [answered(self.task, self.task.pieces(row.values, row.where)[-1].text) for row in self.rows]


def read_test_rows(args: EvaluationArguments, model: Path) -> TestRows:
    """The rows of ``--test_file`` and their task.

    Args:
        args: File, split and task.
        model: The folder of the model, which may have a task saved beside it.

    Raises:
        DataError: The file is missing or broken, or a row lacks what the task needs; the line is named.
        ConfigError: No task is given, and nothing tells of one.
    """
    given = Path(args.test_file or "").expanduser()
    path = given / f"{args.split}.jsonl" if given.is_dir() else given
    if given.is_dir() and not path.is_file():
        raise DataError(f"--test_file {given}: there is no {path.name} in that folder.", "Give another --split, or a file.")
    rows = read_row_file(path, "--test_file")
    task = task_of_rows(args.task, rows[0], (path.parent, model))
    for row in rows:
        task.pieces(row.values, row.where)  # refused here, before anything runs
    return TestRows(rows, task, str(path))


@dataclass
class EncodedRows:
    """Rows in a model's tokens.

    Attributes:
        examples: One for each row, prompt and completion.
        block_size: Tokens of a row that the longest of them fits in.
    """

    examples: list[Example]
    block_size: int

    def packed(self, end: int, pad: int | None) -> PackedRows:
        """As in training: several share a row, and what is learnt counts."""
        pad = end if pad is None else pad  # predicts nothing
        return PackedRows(to_dataset(pack_examples(self.examples, self.block_size, end, pad)), pad=pad)

    def prompts(self, start: int) -> list[list[int]]:
        """What comes before the last thing that is learnt, for each row, after the token that documents start with."""
        return [[start, *example.ids[: _asked(example)].tolist()] for example in self.examples]

    def learnt_bytes(self, tokenizer: PreTrainedTokenizerBase) -> bytes:
        """The text of all that is learnt, as its ids stand for it, special tokens left out; what bits a byte are counted on."""
        learnt = [np.append(example.ids, example.follows)[example.learnt].tolist() for example in self.examples]
        return "".join(tokenizer.backend_tokenizer.decode_batch(learnt, skip_special_tokens=True)).encode()


def _asked(example: Example) -> int:
    learnt = example.learnt[: len(example.ids)].astype(np.int8)
    return int(np.flatnonzero(np.diff(learnt, prepend=0) == 1)[-1]) if learnt.any() else len(learnt)


def encode_rows(found: Pretrained, given: TestRows, block_size: int | None = None) -> EncodedRows:
    """Prompts and completions in the tokens of a model; what is longer than the context is cut on the side the task says.

    Args:
        found: The model.
        given: The rows, as the model is asked.
        block_size: Tokens of a row at most; by default the model's positions.

    Raises:
        DataError: The cut leaves no completion to score.
    """
    limit = block_size or int(found.model.config.max_position_embeddings)
    encoder = Encoder(given.task, from_pretrained_tokenizer(found.tokenizer), limit)
    examples = list(encoder.examples(given.rows))
    cut = sum(example.cut > 0 for example in examples)
    if cut:
        side = "beginning" if given.task.truncate == "left" else "end"
        logger.warning("%d rows are longer than the context of %d tokens: their %s is cut off", cut, limit, side)
    if not any(example.learnt.any() for example in examples):
        raise DataError(f"--test_file {given.name}: nothing of the completions fits in {limit} tokens.", "Give shorter rows.")
    longest = max(len(example.ids) + 1 for example in examples)
    return EncodedRows(examples, min(max(1 << (longest - 1).bit_length(), 64), limit))
