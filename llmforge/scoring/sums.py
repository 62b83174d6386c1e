"""What a model makes of rows, added up for each segment by the evaluation that training uses."""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.rows import PackedRows
from llmforge.data.windows import WindowCollator, WindowRows
from llmforge.runtime.launch import refuse_separate_worlds, use_all_cores
from llmforge.sharding import refuse_sharding
from llmforge.trainer import ForgeTrainer

if TYPE_CHECKING:
    from llmforge.pretrained.loading import Pretrained


def segment_sums(found: Pretrained, rows: PackedRows | WindowRows, args: EvaluationArguments) -> tuple[np.ndarray, np.ndarray]:
    """The sums of every segment of `rows` by `ForgeTrainer`'s evaluation, and the document of each.

    Args:
        found: Its model is moved to the device that it is evaluated on.
        rows: Packed, or windows of documents.
        args: Batch size and precision.

    Returns:
        ``(segments, 6)`` with `llmforge.losses.SEGMENT_SUM_NAMES`, and ``(segments,)``.
    """
    with tempfile.TemporaryDirectory() as folder:
        training = ForgeTrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            precision=args.precision,
            report_to=["none"],
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=not sys.stderr.isatty(),
            # Batches have as many segments as their fullest row: kept apart, and moved off the device.
            eval_do_concat_batches=False,
            eval_accumulation_steps=16,
        )
        refuse_sharding(training, "an evaluation")
        refuse_separate_worlds(training)
        if training.device.type == "cpu":
            use_all_cores()
        trainer = ForgeTrainer(
            model=found.model,
            args=training,
            processing_class=found.tokenizer,
            data_collator=WindowCollator() if isinstance(rows, WindowRows) else PackedCollator(),
            compute_metrics=None,
        )
        trainer.sums_by_segment = True
        predicted = trainer.predict(rows).predictions
    batches = predicted if isinstance(predicted, list) else [predicted]
    by_row = [row for batch in batches for row in batch]
    documents = [rows[index]["segment_documents"] for index in range(len(rows))]
    assert len(by_row) == len(documents), "every row once"
    sums = np.concatenate([row[: len(own)] for row, own in zip(by_row, documents, strict=True)])
    return sums.astype(np.float64), np.concatenate(documents)


def by_document(sums: np.ndarray, document_of: np.ndarray, count: int) -> np.ndarray:
    """The sums of each document, ``(count, columns)``, from those of its segments."""
    units = np.zeros((count, sums.shape[1]))
    np.add.at(units, document_of, sums)
    return units
