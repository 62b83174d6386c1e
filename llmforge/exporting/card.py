"""What lies beside an export: the model card, by the records of where the model is from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge.exporting.check import CheckResult
from llmforge.pretrained.loading import Pretrained
from llmforge.runtime.run_folder import RUN_RECORD
from llmforge.storage.records import read_json
from llmforge.tasks.files import load_task
from llmforge.tasks.task import Task

#: Figures of an evaluation, with their names for people.
_FIGURES = {"loss": "loss", "perplexity": "perplexity", "bits_per_byte": "bits per byte", "accuracy": "accuracy"}
_LICENSE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass
class Origin:
    """What is known of where a model is from.

    Attributes:
        name: Of its run, or of its folder.
        license: From its README.md; empty where that names none.
        training: A sentence on what it was trained on; empty where there is no record.
        results: Figures by what they were measured on.
        data_card: The prepared dataset's, without its heading; empty where it is gone.
        task: What it was fine-tuned for, bound to its tokenizer.
    """

    name: str
    license: str = ""
    training: str = ""
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    data_card: str = ""
    task: Task | None = None


def origin_of(found: Pretrained) -> Origin:
    """Where a model is from, by the records in its folder and in its run's."""
    folder = found.path.resolve()
    readme = _text(folder / "README.md")
    licensed = _LICENSE.search(readme.split("\n---", 1)[0]) if readme.startswith("---") else None
    run = _record(folder.parent / RUN_RECORD)
    origin = Origin(name=str(run.get("name") or folder.name), license=licensed[1] if licensed else "")
    task = load_task(folder)
    origin.task = task.for_tokenizer(found.tokenizer) if task is not None else None
    data = run.get("data") or {}
    train = (data.get("splits") or {}).get("train")
    if train:
        tuned = (run.get("config") or {}).get("finetune") or {}
        # From scratch only shape and tokenizer are taken.
        began = "" if tuned.get("from_scratch") else tuned.get("from_pretrained")
        base = str(began or "").rstrip("/").removesuffix("/final").rpartition("/")[2]
        done, of = (f"Fine-tuned with llmforge from `{base}`", "rows of text") if base else ("Trained with llmforge", "documents")
        origin.training = f"{done} on {train['documents']:,} {of}: {train['bytes']:,} bytes, {train['tokens']:,} tokens."
        origin.data_card = _text(Path(data.get("path", "")) / "data_card.md").removeprefix("# Data card").strip()
        origin.data_card = re.sub(r"\n*!\[[^\]]*\]\([^)]*\)", "", origin.data_card)  # its pictures stay where they are
    if folder.name == "final":
        final = run.get("final") or {}
        origin.results = {name: final[name] for name in ("validation", "test") if final.get(name)}
    evaluated = _record(folder / "eval.json")
    if "perplexity" in evaluated:
        seen = " (text that it was trained on)" if evaluated.get("trained_on") else ""
        origin.results[f"{evaluated.get('data', 'evaluation')}{seen}"] = evaluated
    return origin


def no_data_card(origin: Origin) -> str:
    """What stands in a model card in the place of the data card."""
    why = "the prepared data are no longer there" if origin.training else "the records of the training are not beside the model"
    return f"There is no data card: {why}."


def _record(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except DataError:
        return {}
    return values if isinstance(values, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def summary(origin: Origin) -> str:
    """Training and results in a few sentences, for the file's own description."""
    parts = [origin.training]
    for name, figures in origin.results.items():
        told = [f"{label} {figures[key]:.4g}" for key, label in _FIGURES.items() if key in figures]
        parts.append(f"On {name}: {', '.join(told)}.")
    return " ".join(part for part in parts if part)


def model_card(
    found: Pretrained, origin: Origin, name: str, license: str, file: str, dtype: str, check: CheckResult | None, verify: str
) -> str:
    """The model card of an export.

    Args:
        license: Empty where it is not known.
        file: The export's own name.
        check: What was found; None where it was not checked.
        verify: The command that checks it.
    """
    config, parameters = found.model.config, found.model.num_parameters()
    front = ["pipeline_tag: text-generation", *([f"license: {license}"] if license else [])]
    trained = ""
    if found.context < config.max_position_embeddings:
        trained = f" It was trained on {found.context:,} at a time: beyond that it guesses."
    base = f" An adapter was merged into `{found.base.name}`." if found.base else ""
    lines = ["---", *front, "---", "", f"# {name}", ""]
    lines.append(
        f"`{file}`: a {config.model_type} model of {parameters:,} parameters in {dtype}, with a vocabulary of "
        f"{len(found.tokenizer):,} and a context of {config.max_position_embeddings:,} tokens.{base} {origin.training}".rstrip()
    )
    lines += ["", "## Check", ""]
    if check is None:
        lines.append(f"**Not verified.** Nothing but llmforge has opened it yet; this does: `{verify}`")
    else:
        lines.append(
            f"Opened by {check.reader} and compared with the original: the token ids of {check.lines:,} lines are equal. After "
            f"{check.prefixes} prefixes log-probabilities differ by {check.mean:.4f} nats on average and by {check.largest:.4f} "
            f"at most ({check.error:.2%} of their spread, bound {check.bound:.1%}); the likeliest token is the same after "
            f"{check.same_first:.1%}. Perplexity of that text is {check.perplexity:.5g}, the original's "
            f"{check.original_perplexity:.5g}."
        )
    if origin.results:
        lines += ["", "## Results", "", f"| | {' | '.join(_FIGURES.values())} |", f"|---|{'---:|' * len(_FIGURES)}"]
        for measured, figures in origin.results.items():
            cells = (f"{figures[key]:.4f}" if key in figures else "" for key in _FIGURES)
            lines.append(f"| {measured} | {' | '.join(cells)} |")
        lines += ["", "Measured before the export, in fp32 or the precision of the training."]
    lines += [
        "",
        "## Data",
        "",
        origin.data_card or no_data_card(origin),
    ]
    lines += [
        "",
        "## Limits",
        "",
        "- It has seen nothing but its corpus; what it writes is no statement of fact.",
        f"- It sees {config.max_position_embeddings:,} tokens at most; what lies further back is gone.{trained}",
        f"- Documents began with `{found.tokenizer.bos_token}` in training: a prompt has to begin with it too. A GGUF file "
        "tells readers to add it; `transformers` does not by itself.",
        f"- It was fine-tuned for the task `{origin.task.name}`, and answers what is asked in its form (`task.yaml`)."
        if origin.task is not None
        else "- It was trained to go on with a text, not to follow instructions.",
        *([] if license else ["- No licence is stated: ask whoever trained it before you pass it on."]),
    ]
    return "\n".join(lines) + "\n"
