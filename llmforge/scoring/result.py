"""What an evaluation found, and where it is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoints.manifest import checkpoint_step, is_committed
from llmforge.runtime.run_folder import timestamp
from llmforge.runtime.versions import installed_versions
from llmforge.scoring.figures import Figures
from llmforge.scoring.matching import AnswerFigures, AnswerScores
from llmforge.scoring.pairs import Difference
from llmforge.scoring.samples import Sample
from llmforge.storage.files import new_file

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        model: The model's folder.
        data: What it was evaluated on.
        total: Figures of all of it; of the rows of a task, of what they have to be answered.
        sources: Figures of each source, by name; one for a text of one source.
        settings: ``block_size``, ``stride``, ``precision``, ``split``, how intervals were made, and ``trained_on``: which of
            the files and folders were among those that the model was trained on.
        fingerprint: Of text and tokenizer, or of rows and task.
        answers: Figures of the answers to the rows of a task; None of a text.
        samples: Held-out prompts and their completions.
        lm_eval: What lm-eval found, by task.
        by_document: What each document adds up to, ``(documents, 6)`` with `llmforge.losses.SEGMENT_SUM_NAMES`.
        scores: What each answer scores.
        lines: Each row with its answer, for ``answers.jsonl``.
    """

    model: Path
    data: str
    total: Figures
    sources: dict[str, Figures] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    answers: AnswerFigures | None = None
    samples: list[Sample] = field(default_factory=list)
    lm_eval: dict[str, Any] = field(default_factory=dict)
    by_document: np.ndarray | None = field(default=None, repr=False, compare=False)
    scores: AnswerScores | None = field(default=None, repr=False, compare=False)
    lines: list[dict[str, Any]] = field(default_factory=list, repr=False, compare=False)

    def figures_as_json(self) -> dict[str, Any]:
        """The figures in plain values, those of all of it at the top."""
        return {
            **asdict(self.total),
            "sources": {name: asdict(figures) for name, figures in self.sources.items()},
            **({"answers": asdict(self.answers)} if self.answers is not None else {}),
            **({"samples": [asdict(sample) for sample in self.samples]} if self.samples else {}),
            **({"lm_eval": self.lm_eval} if self.lm_eval else {}),
            "model": str(self.model),
            "data": self.data,
            **self.settings,
            "fingerprint": self.fingerprint,
        }

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and ``eval.json``."""
        return {**self.figures_as_json(), "created": timestamp(), "versions": installed_versions()}


@dataclass
class Comparison:
    """Several models on the same text or rows.

    Attributes:
        evaluations: One for each model.
        differences: For each model but the first, by figure: what it has more than the first one.
    """

    evaluations: list[Evaluation]
    differences: list[dict[str, Difference]]

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and ``compare.json``: each model's figures, and its differences from the first."""
        models = [one.figures_as_json() for one in self.evaluations]
        for values, own in zip(models[1:], self.differences, strict=True):
            values["differences"] = {name: asdict(one) for name, one in own.items()}
        data = self.evaluations[0].data
        return {"data": data, "models": models, "created": timestamp(), "versions": installed_versions()}

    def lines(self) -> list[dict[str, Any]]:
        """Each row with what every model answers."""
        first = self.evaluations[0].lines
        names = [str(one.model) for one in self.evaluations]
        columns = zip(*(one.lines for one in self.evaluations), strict=True)
        own = ("where", "prompt", "reference")
        return [
            {**{key: line[key] for key in own}, "answers": {name: one["answer"] for name, one in zip(names, found, strict=True)}}
            for line, found in zip(first, columns, strict=True)
        ]


def result_path(folder: Path, given: str | None = None, name: str = "eval") -> Path:
    """Where figures are written: beside the model, and for a checkpoint, which stays as it was committed, in its run."""
    if given is not None:
        return Path(given).expanduser()
    if is_committed(folder) or checkpoint_step(folder) is not None:
        return folder.parent / f"{name}-{folder.name}.json"
    return folder / f"{name}.json"


def answers_path(path: Path) -> Path:
    """Where the rows with their answers go: beside the figures at `path`, ``answers.jsonl`` beside ``eval.json``."""
    ending = path.stem.removeprefix("eval") if f"{path.stem}-".startswith("eval-") else f"-{path.stem}"
    return path.with_name(f"answers{ending}.jsonl")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write rows with their answers, a row a line.

    Raises:
        StorageError: They cannot be written.
    """
    with new_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
