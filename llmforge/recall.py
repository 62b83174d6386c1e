"""What is known of a run and need not be told again: the text that it was trained on, and how it was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from llmforge.configs.run import PretrainConfig
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.errors import DataError
from llmforge.mirroring import is_remote
from llmforge.pretrained.origin import prepared_for, record_of
from llmforge.runtime.run_folder import FINAL
from llmforge.tasks.task import TASK_FILE

#: A split that is not trained on.
HeldOut = Literal["test", "validation"]


def text_of_run(model: Path) -> PreparedDataset | None:
    """The prepared text of the run that a ``final/`` or checkpoint is of.

    None where it is gone or was prepared anew otherwise, and where it is the rows of a task: as text, their prompts would count.
    """
    folder = prepared_for(model)
    if folder is None or (folder / TASK_FILE).exists():
        return None
    try:
        return load_prepared(folder)
    except DataError:  # only half of it is there, or it is of an older version
        return None


def held_out(data: PreparedDataset) -> list[HeldOut]:
    """The splits that are not trained on, what a model is judged by first."""
    names: tuple[HeldOut, ...] = ("test", "validation")
    return [name for name in names if name in data.card["splits"]]


def recall_data(config: PretrainConfig) -> None:
    """Where no data is named: of a run that is only evaluated its own; of one to be resumed, say how it was started.

    Raises:
        DataError: There is a run to go on with, and no data.
    """
    resume = config.run.resume
    folder = Path(config.training.output_dir or ".") if config.training.explicit_folder else None
    if folder is None and resume is not None and Path(resume).is_dir():  # a checkpoint says which run it is of
        folder = Path(resume).resolve().parent
    if config.data.sources() or config.data.dataset_dir is not None or folder is None or is_remote(resume):
        return
    record, data = record_of(folder / FINAL), text_of_run(folder / FINAL)
    if config.run.eval_only and data is not None:
        config.data.dataset_dir = str(data.path)
    elif record and resume is not None and not config.run.eval_only:
        raise DataError("There is no corpus: --resume is added to the command that began the run.", _began(record))


def _began(record: dict[str, Any]) -> str:
    """How a run was begun; nothing where that was in a notebook, whose process has a command line that nobody gave."""
    command = str(record.get("command") or "")
    return f"That was: {command}" if command and "kernel_launcher" not in command.split()[0] else ""
