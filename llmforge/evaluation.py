"""llmforge evaluate --model runs/NAME/final --dataset_dir DIR --split test
llmforge evaluate --model runs/NAME/final --corpus FILE… --stride 256

How well a model predicts a text: loss, perplexity, bits per byte, accuracy, for each source and for all of it, with
confidence intervals, and what zstd makes of the same bytes. The figures are the Trainer's own evaluation, counted over
tokens: no batch size and no number of processes changes them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoints.manifest import checkpoint_step, is_committed
from llmforge.configs.data import DataArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.training import ForgeTrainingArguments, deferred_process_group
from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.data.sources.corpus import check_corpus
from llmforge.data.windows import WindowCollator
from llmforge.errors import ConfigError
from llmforge.parsing import ForgeParser
from llmforge.pretrained.loading import Pretrained, load_pretrained_model
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import rank, rank_zero_first, refuse_separate_worlds, use_all_cores, world_size
from llmforge.runtime.logs import console, logger, printable, set_up_logging
from llmforge.runtime.run_folder import timestamp
from llmforge.runtime.versions import installed_versions
from llmforge.scoring.figures import LEVEL, RESAMPLES, Figures, figures_of, zstd_size
from llmforge.scoring.text import EvaluationText, refuse_other_tokenizer, text_of_corpus, text_of_dataset
from llmforge.sharding import refuse_sharding
from llmforge.storage import write_json
from llmforge.trainer import ForgeTrainer

if TYPE_CHECKING:
    import numpy as np

#: What is shown with its interval: name, and attribute of `Figures`.
_INTERVALS = {"perplexity": "perplexity", "bits per byte": "bits_per_byte", "accuracy": "accuracy"}


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        model: The model's folder.
        data: What it was evaluated on.
        total: Figures of all of it.
        sources: Figures of each source, by name; one for a text of one source.
        settings: ``block_size``, ``stride``, ``precision``, ``split`` and how intervals were made.
        fingerprint: Of text and tokenizer.
    """

    model: Path
    data: str
    total: Figures
    sources: dict[str, Figures] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and ``eval.json``: the figures of all of it at the top."""
        return {
            **asdict(self.total),
            "sources": {name: asdict(figures) for name, figures in self.sources.items()},
            "model": str(self.model),
            "data": self.data,
            **self.settings,
            "fingerprint": self.fingerprint,
            "created": timestamp(),
            "versions": installed_versions(),
        }


def evaluate_model(args: EvaluationArguments) -> Evaluation:
    """Evaluate the model that `args` names on its text.

    Under a launcher every process calls it, and all get the result.

    Raises:
        ConfigError: No model or no text is given, a context longer than the model's, separate worlds.
        CheckpointError: The model cannot be used.
        DataError: The text cannot be read, or was tokenized for another model.
        StorageError: The cache cannot be written.
    """
    if args.model is None:
        raise ConfigError("--model is not given.", "Give --model DIR, such as runs/NAME/final.")
    if args.dataset_dir is None and not (args.corpus or args.source):
        raise ConfigError("There is no text to evaluate on.", "Give --dataset_dir DIR, or --corpus FILES.")
    data = load_prepared(args.dataset_dir) if args.dataset_dir is not None else args.data()
    if isinstance(data, DataArguments):
        check_corpus(data)
    found = load_pretrained_model(args.model, args.base_model)
    return evaluate_on(found, data, args)


def evaluate_on(found: Pretrained, data: PreparedDataset | DataArguments, args: EvaluationArguments) -> Evaluation:
    """Evaluate a model that is loaded; what else `evaluate_model` does.

    Args:
        data: A prepared dataset, or where text is.
        args: Split, stride, context, batch size and precision.
    """
    positions = int(found.model.config.max_position_embeddings)
    if args.block_size is not None and args.block_size > positions:
        raise ConfigError(
            f"--block_size {args.block_size} is longer than the model's {positions} positions.", "Give a shorter one."
        )
    if isinstance(data, PreparedDataset):
        refuse_other_tokenizer(found.tokenizer, data, f"--model {found.path}")
        block_size = args.block_size or min(data.block_size, positions)
    else:
        block_size = args.block_size or found.context
    if args.stride is not None and args.stride > block_size:
        raise ConfigError(f"--stride {args.stride} is longer than the context of {block_size} tokens.", "Give a shorter one.")

    def read() -> EvaluationText:
        if isinstance(data, PreparedDataset):
            return text_of_dataset(data, args.split)
        return text_of_corpus(data, found.tokenizer)

    # The machine's first process reads and tokenizes; the others find it in the cache.
    rank_zero_first()(lambda: read().fingerprint)
    text = read()
    settings = {
        "split": args.split if isinstance(data, PreparedDataset) else None,
        "block_size": block_size,
        "stride": args.stride,
        "precision": args.precision,
        "interval_method": f"{LEVEL:.0%}, {RESAMPLES} bootstrap resamples, seed 0",
    }
    sums, document_of = segment_sums(found, text, block_size, args)
    sources = {
        name: figures_of(sums, document_of, text.source_of == number, zstd_size(text.bytes_of(found.tokenizer, number)))
        for number, name in enumerate(text.sources)
        if (text.source_of == number).any()
    }
    sizes = [figures.zstd_bytes for figures in sources.values()]
    total = figures_of(sums, document_of, text.source_of >= 0, sum(sizes))
    return Evaluation(found.path, text.name, total, sources, settings, text.fingerprint)


def segment_sums(
    found: Pretrained, text: EvaluationText, block_size: int, args: EvaluationArguments
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of every segment of the text by `ForgeTrainer`'s evaluation, and the document of each.

    Returns:
        ``(segments, 6)`` with `llmforge.losses.SEGMENT_SUM_NAMES`, and ``(segments,)``.
    """
    import numpy as np

    rows = text.rows(block_size, found.tokenizer, args.stride)
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
            data_collator=PackedCollator() if args.stride is None else WindowCollator(),
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


def result_path(folder: Path, given: str | None = None) -> Path:
    """Where the figures are written: beside the model, and for a checkpoint, which stays as it was committed, in its run."""
    if given is not None:
        return Path(given).expanduser()
    if is_committed(folder) or checkpoint_step(folder) is not None:
        return folder.parent / f"eval-{folder.name}.json"
    return folder / "eval.json"


def show_evaluation(evaluation: Evaluation) -> None:
    """A table for people."""
    from rich.table import Table
    from rich.text import Text

    settings, total = evaluation.settings, evaluation.total
    context = f"context {settings['block_size']}" + (f", stride {settings['stride']}" if settings["stride"] else "")
    title = Text(printable(f"{evaluation.model} on {evaluation.data}; {context}"))
    table = Table(title=title, title_justify="left")
    table.add_column("source")
    for name in ("tokens", "perplexity", "bits/byte", "zstd", "accuracy", "top 5"):
        table.add_column(name, justify="right")
    for name, figures in {**(evaluation.sources if len(evaluation.sources) > 1 else {}), "all": total}.items():
        table.add_row(
            Text(printable(name)),
            f"{figures.tokens:,}",
            f"{figures.perplexity:,.2f}",
            f"{figures.bits_per_byte:.3f}",
            f"{figures.zstd_bits_per_byte:.3f}",
            f"{figures.accuracy:.1%}",
            f"{figures.top5_accuracy:.1%}",
        )
    terminal = console()
    terminal.print(table)
    told = [f"{name} {getattr(total, key):.4g}{_interval(total, key)}" for name, key in _INTERVALS.items()]
    lines = [
        ", ".join(told),
        f"loss {total.loss:.4f} nats a token; {total.documents:,} documents, {total.bytes:,} bytes",
        *([f"in brackets {settings['interval_method']} of {total.resampled}"] if total.intervals else []),
        "zstd: bits a byte that zstd -19 needs for the same bytes",
    ]
    for line in lines:
        terminal.print(line, highlight=False, markup=False, soft_wrap=True)


def _interval(figures: Figures, name: str) -> str:
    low_high = figures.intervals.get(name)
    return f" [{low_high[0]:.4g}, {low_high[1]:.4g}]" if low_high else ""


def main(argv: Sequence[str] | None = None) -> Evaluation:
    """The command line of `llmforge evaluate`."""
    parser = ForgeParser([EvaluationArguments], prog="llmforge evaluate", description="How well a model predicts a text.")
    args = parser.parse(argv).get(EvaluationArguments)
    set_up_logging()
    with deferred_process_group():
        evaluation = evaluate_model(args)
    report(evaluation, result_path(evaluation.model, args.output), args.json)
    return evaluation


def report(evaluation: Evaluation, path: Path, as_json: bool = False) -> None:
    """Show the figures and write them to `path`, in the first process; where they cannot be written they were seen at least."""
    if rank() == 0:
        if as_json:
            print(json.dumps(evaluation.as_json() | {"output": str(path)}), flush=True)
        else:
            show_evaluation(evaluation)
        write_json(path, evaluation.as_json() | {"processes": world_size()})
        if not as_json:
            logger.info("written to %s", path)
    rank_zero_first().clear()


if __name__ == "__main__":
    sys.exit(run_command(main))
