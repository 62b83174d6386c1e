"""README and docs: links lead somewhere, commands parse, and the reference is what the code says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import documented
import pytest
from documented import FENCE, PAGES, commands
from helpers import ROOT


def fenced(language: str) -> list[tuple[Path, str]]:
    return [(page, body) for page in PAGES for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def shell_commands() -> list[str]:
    return [line for page in PAGES for line in commands(page)]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{named(page)}: {target}"


def test_nine_of_ten_commands_are_run():
    """By tests/test_commands_run.py, of those that need no GPU, network or cluster; and those that do are few."""
    every, needing = documented.counted()
    assert every > 200
    assert every - needing.total() >= 0.9 * (every - sum(needing[reason] for reason in documented.ABSENT))
    assert needing.total() <= 0.15 * every
    assert all(documented.NEEDS.values()), "each with its reason"


def test_what_is_said_of_commands_is_of_some():
    """A command that is gone, or was changed, leaves nothing lying about that says why it is not run."""
    lines = shell_commands()
    assert [start for start in documented.NEEDS if not any(f"{line}$".startswith(start) for line in lines)] == []


def test_shell_commands_are_marked_as_such():
    """In another fence nobody would find them."""
    languages = {kind for page in PAGES for kind, _ in FENCE.findall(page.read_text(encoding="utf-8"))}
    assert languages <= {"bash", "python", "text", "yaml", ""}


@pytest.mark.parametrize("line", shell_commands())
def test_commands_parse(line, capsys, monkeypatch):
    """Every command is one that exists, with flags and configs that exist."""
    monkeypatch.chdir(ROOT)  # where they are to be typed
    words = shlex.split(line)
    while re.match("[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "llmforge":
        parses(words[1], words[2:])
    elif words[0] == "torchrun" and "-m" in words:
        module = words.index("-m")
        assert words[module + 1] == "llmforge"
        parses(words[module + 2], words[module + 3 :])
    elif words[0] in ("torchrun", "sbatch") or words[:2] == ["accelerate", "launch"]:
        recipe = next(index for index, word in enumerate(words) if word.startswith("recipes/"))
        assert (ROOT / words[recipe]).is_file()
        if "--config_file" in words[:recipe]:
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        parses("pretrain", words[recipe + 1 :], ROOT / "recipes" / "configs" / Path(words[recipe]).stem)
    else:
        assert words[0] in ("tensorboard", "source", "python"), words


def parses(verb: str, words: list[str], configs: Path | None = None) -> None:
    from llmforge import convert, doctor, monitor, report
    from llmforge.checkpoints import inspect
    from llmforge.configs.checkpoint import CheckpointArguments
    from llmforge.configs.data import DataArguments
    from llmforge.configs.deadline import DeadlineArguments
    from llmforge.configs.evaluation import EvaluationArguments
    from llmforge.configs.export import ExportArguments
    from llmforge.configs.finetune import FinetuneArguments
    from llmforge.configs.generation import GenerateArguments, GenerationArguments
    from llmforge.configs.lora import LoraArguments
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.plan import PlanArguments
    from llmforge.configs.remote import RemoteArguments
    from llmforge.configs.run import RunArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.configs.tuning import FinetuneTrainingArguments
    from llmforge.parsing import ForgeParser
    from llmforge.prepare import PrepareArguments
    from llmforge.tokenizer import TokenizerCommandArguments

    shown = {"checkpoints": inspect, "convert": convert, "doctor": doctor, "monitor": monitor, "report": report}
    if verb in shown:
        shown[verb].parser().parse_args(words)
        return
    classes = {
        "pretrain": [
            DeadlineArguments,
            ModelArguments,
            TokenizerArguments,
            DataArguments,
            ForgeTrainingArguments,
            CheckpointArguments,
            RemoteArguments,
            GenerationArguments,
            RunArguments,
        ],
        "finetune": [
            FinetuneArguments,
            LoraArguments,
            DataArguments,
            FinetuneTrainingArguments,
            CheckpointArguments,
            GenerationArguments,
            RunArguments,
        ],
        "generate": [GenerateArguments, GenerationArguments],
        "evaluate": [EvaluationArguments, GenerationArguments],
        "export": [ExportArguments],
        "prepare": [DataArguments, TokenizerArguments, PrepareArguments],
        "tokenizer": [DataArguments, TokenizerArguments, TokenizerCommandArguments],
    }
    classes["plan"] = [PlanArguments, *classes["pretrain"]]
    if verb == "tokenizer":
        assert words[0] in ("train", "inspect")
        words = words[1:]
    ForgeParser(classes[verb], dry_run=verb in ("pretrain", "finetune")).parse(words, configs)


@pytest.mark.parametrize(
    ("page", "body"), fenced("python"), ids=lambda value: named(value) if isinstance(value, Path) else "code"
)
def test_python_is_python(page, body):
    compile(body, str(page), "exec")


def test_the_python_page_runs_as_written(monkeypatch, tmp_path):
    """On the sample corpus, in a folder of its own."""
    body = next(body for page, body in fenced("python") if page.name == "python.md")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    exec(compile(body, "python.md", "exec"), {})
    assert (tmp_path / "runs" / "from-python" / "metrics.jsonl").exists()


def test_the_reference_is_what_the_code_says(monkeypatch):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in (
        ("configuration.md", generate.configuration),
        ("commands.md", generate.commands),
        ("python.md", generate.api),
    ):
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == page(), f"{name}: run `make docs`"


def test_no_page_speaks_of_where_it_was_made():
    for page in PAGES:
        assert not re.search(r"/(root|tmp|home)/", page.read_text(encoding="utf-8")), named(page)
