"""python docs/generate.py [--check]

Write docs/reference/ from the code: every flag from the dataclasses, every public name from
its docstring. With --check nothing is written, and a difference is an error.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import llmforge
from llmforge.cli import VERBS, usage
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.data import DataArguments
from llmforge.configs.deadline import DeadlineArguments
from llmforge.configs.doctor import DoctorArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.export import ExportArguments
from llmforge.configs.finetune import FinetuneArguments
from llmforge.configs.generation import GenerateArguments, GenerationArguments
from llmforge.configs.lora import LoraArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.monitor import MonitorArguments
from llmforge.configs.plan import PlanArguments
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import RunArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.configs.tuning import FinetuneTrainingArguments
from llmforge.models import PRESETS
from llmforge.plan import list_presets

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it again. -->"
CONFIGS = (
    ModelArguments,
    TokenizerArguments,
    DataArguments,
    DeadlineArguments,
    RunArguments,
    CheckpointArguments,
    RemoteArguments,
    GenerationArguments,
    GenerateArguments,
    EvaluationArguments,
    ExportArguments,
    FinetuneArguments,
    LoraArguments,
    PlanArguments,
    DoctorArguments,
    MonitorArguments,
)


def cell(text: object) -> str:
    """`text` as one cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", "\\n").replace("<", "&lt;")


def default(item: dataclasses.Field) -> str:
    """The default of a field, as YAML would hold it; empty for none."""
    value = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    return "" if value is None or value == [] else f"`{cell(value)}`"


def fields(cls: type, names: set[str] | None = None) -> list[str]:
    """A table of the fields of `cls`."""
    lines = ["| flag | default | |", "|---|---|---|"]
    chosen = [item for item in dataclasses.fields(cls) if names is None or item.name in names]
    return lines + [f"| `--{item.name}` | {default(item)} | {cell(item.metadata.get('help', ''))} |" for item in chosen]


def configuration() -> str:
    """The page of all flags."""
    lines = [
        NOTE,
        "",
        "# Configuration",
        "",
        "Every field is a flag and a YAML key: defaults, then `--config FILE`, then flags.",
        "",
    ]
    for cls in CONFIGS:
        lines += [f"## {cls._argument_group_name}", "", (cls.__doc__ or "").split("\n")[0], "", *fields(cls), ""]
    own = set(ForgeTrainingArguments.__dict__["__annotations__"])
    lines += ["## training", "", "Every field of `transformers.TrainingArguments`; these are new or have another default:", ""]
    lines += [
        *fields(ForgeTrainingArguments, own),
        "",
        "## training, of `llmforge finetune`",
        "",
        "Other defaults than above:",
        "",
    ]
    tuned = set(FinetuneTrainingArguments.__dict__["__annotations__"])
    return "\n".join([*lines, *fields(FinetuneTrainingArguments, tuned), ""])


def commands() -> str:
    """The page of verbs and presets."""
    lines = [NOTE, "", "# Commands", "", "```text", usage(), "```", ""]
    lines += [f"- `llmforge {verb}` (`python -m {module}`): {text}" for verb, (module, text) in VERBS.items()]
    lines += ["", "## Presets", "", "Parameters at the reference vocabulary; a run prints its own count.", ""]
    lines += [
        "| preset | family | layers | width | heads | positions | vocabulary | parameters |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in list_presets():
        sizes = " | ".join(f"{row[key]:,}" for key in ("layers", "width", "heads", "positions", "vocab_size", "parameters"))
        lines.append(f"| `{row['preset']}` | {row['family']} | {sizes} |")
    assert len(PRESETS) == len(list_presets())
    return "\n".join([*lines, ""])


def api() -> str:
    """The page of public names."""
    lines = [NOTE, "", "# Python", "", "`import llmforge` is instant; each name is loaded when it is first used.", ""]
    for name in llmforge.__all__:
        part = getattr(llmforge, name)
        signature = "" if inspect.isclass(part) else str(inspect.signature(part))
        lines += [f"## `{name}`", "", "```text", f"{name}{signature}", "", inspect.getdoc(part) or "", "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the pages, or say which differ."""
    check = "--check" in sys.argv[1:]
    stale = []
    for name, page in (("configuration.md", configuration()), ("commands.md", commands()), ("python.md", api())):
        path = REFERENCE / name
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(page, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            stale.append(name)
    if stale:
        print(f"docs/reference is not what the code says: {', '.join(stale)}. Run `make docs`.", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
