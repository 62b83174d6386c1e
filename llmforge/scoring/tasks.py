"""How well a fine-tuned model predicts the held-out rows of its task."""

from __future__ import annotations

from pathlib import Path

from llmforge.checkpoints.resume import find_checkpoint
from llmforge.configs.finetune import FinetuneConfig
from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import PreparedDataset
from llmforge.errors import DataError
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.results import metrics_of
from llmforge.runtime.launch import rank, use_all_cores
from llmforge.runtime.logs import show
from llmforge.runtime.run_folder import FINAL
from llmforge.storage.records import write_json
from llmforge.trainer import ForgeTrainer


def score_rows(config: FinetuneConfig, data: PreparedDataset) -> dict[str, float]:
    """Score what a run has made on its test rows, else its validation rows, on what they have to be learnt; ``--eval_only``.

    Returns:
        Loss, perplexity, bits per byte and accuracy; they are in the run's ``eval.json`` too, of a checkpoint ``eval-NAME.json``.

    Raises:
        CheckpointError: The run has no ``final/``, or ``--resume`` names a checkpoint that cannot be used.
        DataError: There are no held-out rows.
    """
    split = "test" if "test" in data.dataset else "validation"
    rows = data.rows(split, config.data.max_eval_samples)
    if rows is None:
        raise DataError("--eval_only: there are no held-out rows.", "Give --test_file or --validation_file.")
    folder, resume = Path(config.training.output_dir or "."), config.run.resume
    chosen = find_checkpoint(folder, resume, False, fresh_optimizer=True) if resume is not None else None
    place = chosen or folder / FINAL
    if config.training.device.type == "cpu":  # the first look at it starts the process group
        use_all_cores()
    model = load_pretrained_model(str(place)).model
    trainer = ForgeTrainer(
        model,
        config.training,
        eval_dataset=rows,
        processing_class=data.tokenizer,
        data_collator=PackedCollator.of(model, data.tokenizer),
    )
    found = metrics_of(trainer.predict(rows).metrics, "test_")
    if rank() == 0:
        show(f"{split} of {place}: " + ", ".join(f"{name} {value:,.4g}" for name, value in found.items()))
        name = "eval.json" if chosen is None else f"eval-{chosen.name}.json"
        write_json(folder / name, {"split": split, "rows": len(rows), "rows_of": rows.total, **found})
    return found
