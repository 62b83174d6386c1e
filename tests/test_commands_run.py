"""The commands of README and docs, run: each page in a folder of its own, in order, so that later ones find earlier runs.

Placeholders are stood in for, and trainings are cut short by further flags (of two that say the same the later one holds): that
is all that differs from what a reader types. `llmforge` and recipes run in a fork of this process, where everything is imported
already; what is launched is run without its launcher, which tests/recipes and tests/reliability do with it. `make docs-commands`
runs this.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow
T = TypeVar("T")

#: The pages whose commands are run. Those of the others are parsed (tests/test_docs.py).
PAGES = """README.md docs/quickstart.md docs/callbacks/samples.md docs/how-to/checkpoints.md docs/how-to/choosing.md
docs/how-to/cleaning.md docs/how-to/code-models.md docs/how-to/deploy.md docs/how-to/doctor.md docs/how-to/from-litgpt.md
docs/how-to/from-run-clm.md docs/how-to/generate.md docs/how-to/monitor.md docs/how-to/own-corpus.md docs/how-to/plan.md
docs/how-to/report.md docs/how-to/resume.md docs/how-to/small-cards.md docs/how-to/rocm.md docs/callbacks/divergence.md
docs/how-to/deadline.md docs/how-to/optimizers.md docs/how-to/reading-the-curves.md docs/how-to/recipes.md
docs/how-to/spot-instances.md docs/how-to/trackers.md""".split()
FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: What a reader puts a value of their own for, and what is put here: made by `scratch`.
PLACEHOLDERS = {
    "recipes/pretrain_gutenberg.py --config 124m --corpus DIR": "recipes/pretrain_gutenberg.py --config 124m --corpus texts",
    "~/src/project": "project",
    "~/texts": "texts",
    "DIR": "project",
    "runs/mine 500 1000": "runs/mine 1 2",
}
#: Not run but parsed (tests/test_docs.py), by the start of the line, with the reason.
NEEDS = {
    "make setup": "the package index",
    "make pretrain-rocm": "a GPU",
    "accelerate launch --config_file accelerate_configs/single_gpu": "a GPU",
    "accelerate launch --config_file accelerate_configs/ddp": "two GPUs",
    "accelerate launch --config_file accelerate_configs/rocm": "a GPU",
    "llmforge doctor --output_dir runs --remote": "the network",
    "llmforge checkpoints download gs://": "the network",
    "llmforge checkpoints upload": "the network",
    "accelerate launch recipes/pretrain_gutenberg.py --config 124m --corpus 84,1342,2701": "the network",
    "accelerate launch recipes/pretrain_smollm.py --config 124m$": "the network",
    "accelerate launch --config_file accelerate_configs/fsdp.yaml": "several GPUs, and a bucket",
    "llmforge pretrain --preset neox-160m --corpus ~/texts --optim galore": "the extra optimizers",
    "llmforge pretrain --preset gpt2-10m --n_layer 6 --n_embd 384 --n_head 6 --tokenizer gpt2": "the network",
}
#: Nor these, which could be, but not here.
LONG = {
    "make test": "this suite",
    "make demo": "a training of minutes by another environment; tests/recipes launches the same",
    "source .venv/bin/activate": "the environment that make makes",
    "tensorboard": "serves until it is stopped",
    "python benchmarks": "minutes",
}
SHORTER = """--max_steps 2 --eval_steps 1 --save_steps 1 --logging_steps 1 --max_eval_samples 4 --block_size 64
--per_device_train_batch_size 2 --per_device_eval_batch_size 2 --report_to none --disable_tqdm true --max_new_tokens 4
--dataloader_num_workers 0"""
#: By the start of the line: what makes it quick, or able to end.
EXTRA = {
    "llmforge pretrain": SHORTER,
    # Seven books are few to make three splits of.
    "accelerate launch recipes/pretrain_gutenberg.py --config 124m": SHORTER + " --split_ratios 0.5,0.5,0",
    "accelerate launch recipes/": SHORTER,
    "llmforge monitor": "--once",
    "llmforge plan --preset gpt2-10m --probe": "--block_size 64 --n_layer 1 --per_device_train_batch_size 1",
    "llmforge generate": "--max_new_tokens 4",
    "llmforge evaluate": "--max_new_tokens 4",
    "llmforge doctor": "--quick",
}
#: Exit codes that are right besides 0, by the start of the line.
ENDS = {
    "llmforge prepare --check_leaks": 7,  # files of a small corpus are alike, and so are a fifth of their short runs
    "llmforge pretrain --preset gpt2-10m --n_layer 2 --n_embd 128 --n_head 4 --vocab_size 1024 --corpus recipes/samples/go "
    "--block_size 128 --max_steps 200 --learning_rate 1e12": 6,  # the page shows how that ends
}
GPT2 = "--n_layer 1 --n_embd 32 --n_head 2"
NEOX = "--num_hidden_layers 1 --hidden_size 32 --num_attention_heads 2 --intermediate_size 64"


@dataclass
class Told:
    """What became of the commands of a page."""

    ran: list[str] = field(default_factory=list)
    needing: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)


def commands(page: str) -> list[str]:
    """The shell commands of a page, one a line."""
    text = "\n".join(FENCE.findall((ROOT / page).read_text(encoding="utf-8")))
    lines = (line.split("    #")[0].strip() for line in re.sub(r"\\\n\s*", "", text).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def first(table: dict[str, T], line: str, default: T) -> T:
    """What `table` has for the start of `line`, or, with a $ at the end, for all of it."""
    return next((value for start, value in table.items() if f"{line}$".startswith(start)), default)


def words_of(line: str) -> list[str]:
    """`line` as it is run here."""
    for placeholder, stand_in in PLACEHOLDERS.items():
        line = re.sub(rf"(?<![\w/.-]){re.escape(placeholder)}(?![\w/])", stand_in, line)
    words, extra = shlex.split(line.replace("$'\\n}\\n'", "'}'")), shlex.split(first(EXTRA, line, ""))
    if words[:2] == ["llmforge", "pretrain"] or words[:2] == ["accelerate", "launch"]:
        if "--eval_only" in words:
            extra = []
        extra += shlex.split(NEOX if "neox-" in line or "refocused" in line else GPT2)
        if "--tokenizer" not in words and "--dataset_dir" not in words and "refocused" not in line:
            extra += ["--vocab_size", "400"]
    return words + extra


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the checkout, with what a reader has besides."""
    for name in ("recipes", "accelerate_configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes/samples/go", tmp_path / "project")
    (tmp_path / "texts").mkdir()
    for number, path in enumerate(sorted((ROOT / "recipes/samples/gutenberg").rglob("*.txt"))):
        shutil.copyfile(path, tmp_path / "texts" / f"{number}.txt")
    texts = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "texts").iterdir())]
    (tmp_path / "train.txt").write_text("\n\n".join(texts[1:]), encoding="utf-8")
    (tmp_path / "held-out.txt").write_text(texts[0], encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("func main() {\ntype Server struct {\n", encoding="utf-8")
    questions = json.loads((ROOT / "recipes/samples/technical/qa.json").read_text(encoding="utf-8"))
    shutil.copyfile(ROOT / "recipes/samples/technical/qa.json", tmp_path / "qa.json")
    lessons = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "project").rglob("*.go"))]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lessons), encoding="utf-8")
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path.parent / "cache"))
    return tmp_path


#: Runs that a page takes as given, by its name: what makes them.
GIVEN = {
    "reading-the-curves": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/pretrain_go-demo-001",
    "spot-instances": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/mine",
    "deploy": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/pretrain_go-demo-001",
    "generate": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/pretrain_go-demo-001",
    "monitor": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/pretrain_go-demo-001",
    "checkpoints": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/mine",
    "report": "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/mine",
}


def run(start: Callable, words: list[str]) -> tuple[int, str]:
    """The command in a fork; the exit code, and what it printed."""

    def body() -> int:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        if words[0] == "llmforge":
            from llmforge.cli import main

            return main(words[1:])
        recipe = next(index for index, word in enumerate(words) if word.startswith("recipes/"))
        sys.argv = words[recipe:]
        runpy.run_path(words[recipe], run_name="__main__")
        return 0

    child = start(body, "command")
    code = child.wait(300)
    return code, child.text()


TOLD: dict[str, Told] = {}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, scratch: Path, start: Callable):
    told = TOLD[page] = Told()
    given = GIVEN.get(Path(page).stem)
    if given:
        code, printed = run(start, words_of(given))
        assert code == 0, printed[-3000:]
        if Path(page).stem == "report":
            shutil.copytree("runs/mine", "runs/other")
    failed = []
    for line in commands(page):
        if first(NEEDS, line, ""):
            told.needing.append(line)
        elif first(LONG, line, ""):
            told.long.append(line)
        else:
            code, printed = run(start, words_of(line))
            told.ran.append(line)
            if code not in (0, first(ENDS, line, 0)):
                failed.append(f"{line}\n{code}: {printed[-1500:]}")
    assert not failed, "\n\n".join(failed)


def test_nine_of_ten_are_run(capsys: pytest.CaptureFixture[str]):
    """Of those that need neither a GPU nor the network; after the pages, and of all of them."""
    if set(TOLD) != set(PAGES):
        pytest.skip("not all pages were run")
    ran, needing, long = (sum(len(getattr(told, kind)) for told in TOLD.values()) for kind in ("ran", "needing", "long"))
    with capsys.disabled():
        print(f"\n{ran} commands of {len(PAGES)} pages run, {needing} need a GPU or the network, {long} are left out")
    assert ran / (ran + long) >= 0.9
