"""A model evaluated on the rows of a task: how well it predicts what answers them, and how well it answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.runtime.launch import rank
from llmforge.scoring.answers import answer_prompts, told_settings
from llmforge.scoring.figures import figures_of, zstd_size
from llmforge.scoring.matching import answer_figures, score_answers
from llmforge.scoring.result import Evaluation
from llmforge.scoring.rows import TestRows, encode_rows
from llmforge.scoring.samples import given_prompts, row_prompts, sample_prompts
from llmforge.scoring.sums import by_document, segment_sums

if TYPE_CHECKING:
    from llmforge.pretrained.loading import Pretrained


def evaluate_rows(
    found: Pretrained,
    data: TestRows,
    args: EvaluationArguments,
    generation: GenerationArguments,
    given: set[str],
    settings: dict[str, Any],
) -> Evaluation:
    """Evaluate a model on rows.

    Args:
        found: The model.
        data: Rows and task, as the model is asked.
        args: Context, batch size and precision.
        generation: How answers and samples are made, where the task does not say.
        given: Its settings that go before those of the task.
        settings: What to tell with the figures.

    Raises:
        DataError: Nothing of the completions fits in the context.
    """
    task, tokenizer = data.task, found.tokenizer
    encoded, references = encode_rows(found, data, args.block_size), data.references()
    sums, row_of = segment_sums(found, encoded.packed(tokenizer.eos_token_id, tokenizer.pad_token_id), args)
    chosen = np.ones(len(data.rows), dtype=bool)
    total = figures_of(sums, row_of, chosen, zstd_size(encoded.learnt_bytes(tokenizer)))
    total.resampled = total.resampled.replace("documents", "rows").replace("pieces", "rows")
    settings = {"split": None, "block_size": encoded.block_size, "stride": None, "task": task.name, **settings}
    result = Evaluation(found.path, data.name, total, {}, settings, data.fingerprint)
    result.by_document = by_document(sums, row_of, len(data.rows))
    generation = task.generation_arguments(generation, given)
    prompts = encoded.prompts(tokenizer.bos_token_id)
    answers = answer_prompts(found, prompts, dataclasses.replace(generation, strategies=[]), args.per_device_eval_batch_size)
    result.scores = score_answers(task, data.rows, [answer.text for answer in answers])
    result.answers = answer_figures(result.scores, [answer.ended for answer in answers], told_settings(generation))
    columns = zip(data.rows, prompts, references, answers, result.scores.columns["exact_match"], strict=True)
    result.lines = [
        {
            "where": row.where,
            "prompt": tokenizer.decode(ids[1:]),
            "reference": reference,
            "answer": answer.text,
            "ended": answer.ended,
            "exact_match": bool(right),
        }
        for row, ids, reference, answer, right in columns
    ]
    if args.samples and rank() == 0:
        own = given_prompts(found, generation.prompts)
        result.samples = sample_prompts(found, own or row_prompts(found, data, encoded, args.samples), generation)
    return result
