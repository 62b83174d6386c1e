"""The package as it is installed: what the wheel holds and says of itself, and that it needs no checkout.

The slow test is the real thing: a fresh environment, everything from the package index (``PIP_INDEX_URL`` and its
like are heard), the verbs one after the other. `make wheel-test` runs it.
"""

from __future__ import annotations

import ast
import email
import email.message
import email.policy
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT, write_documents

import llmforge

LIBRARY = ROOT / "llmforge"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Files of others that ship, and their licences, lie under the library.
LICENCES = ["LICENSE", *sorted(str(path.relative_to(ROOT)) for path in LIBRARY.rglob("*LICENSE*"))]
BUILD = "import sys, setuptools.build_meta as backend; print('made', getattr(backend, sys.argv[1])(sys.argv[2]))"


def shipped() -> dict[str, bytes]:
    """Every file of the library in the checkout, whatever its kind."""
    files = (path for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in files}


def build(what: str, source: Path, target: Path) -> Path:
    """The distribution that ``build_<what>`` makes of the project in `source`."""
    target.mkdir(exist_ok=True)
    words = [sys.executable, "-c", BUILD, f"build_{what}", str(target)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told = done.stdout + done.stderr
    assert "absent from the `packages`" not in told
    assert "Deprecat" not in told, told[-3000:]
    return target / done.stdout.rsplit("made ", 1)[1].strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built of the source distribution, as an index or a packager would; the checkout is left alone."""
    place = tmp_path_factory.mktemp("package")
    (place / "checkout").mkdir()
    for name in [entry.name for entry in ROOT.iterdir() if entry.is_file()] + ["llmforge", "recipes", "accelerate_configs"]:
        (place / "checkout" / name).symlink_to(ROOT / name)
    source = build("sdist", place / "checkout", place)
    with tarfile.open(source) as archive:
        archive.extractall(place, filter="data")
    [unpacked] = place.glob("llmforge-*/")
    assert (unpacked / "recipes" / "pretrain_go.py").is_file()
    assert (unpacked / "accelerate_configs" / "cpu.yaml").is_file()
    return build("wheel", unpacked, place / "dist")


@pytest.fixture(scope="module")
def described(wheel: Path) -> email.message.EmailMessage:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name), policy=email.policy.default.clone(utf8=True))


def test_the_wheel_is_the_library_and_its_licences(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    about = f"llmforge-{llmforge.__version__}.dist-info"
    assert {name: text for name, text in held.items() if not name.startswith(about)} == shipped()
    licences = {name.removeprefix(f"{about}/licenses/"): text for name, text in held.items() if "/licenses/" in name}
    assert licences == {name: (ROOT / name).read_bytes() for name in LICENCES}, "list it in license-files of pyproject.toml"
    assert b"llmforge = llmforge.cli:main" in held[f"{about}/entry_points.txt"]


def test_it_describes_itself(described: email.message.EmailMessage):
    assert (described["Name"], described["Version"]) == ("llmforge", llmforge.__version__)
    assert "Apache-2.0" in described["License-Expression"]
    assert described.get_all("License-File") == LICENCES
    assert described["Requires-Python"] == ">=3.11"
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_extras_that_messages_and_docs_name_are_there(described: email.message.EmailMessage):
    pages = [*LIBRARY.rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    named = {extra for group in re.findall(r"llmforge\[([\w, -]+)\]", text) for extra in re.split(", ?", group)}
    assert {"gcs", "s3", "wandb"} <= named <= set(described.get_all("Provides-Extra"))


def third_party() -> dict[str, set[str]]:
    """Top-level name → the modules of the library that import it, at any depth."""
    found: dict[str, set[str]] = {}
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in {"llmforge", "_typeshed", *sys.stdlib_module_names}:
                    found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def test_all_that_is_imported_is_declared():
    """What a dependency happens to bring along may leave with its next version."""
    lines = [
        *PROJECT["dependencies"],
        *(line for extra, of in PROJECT["optional-dependencies"].items() for line in of if extra != "dev"),
    ]
    declared = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}
    homes = metadata.packages_distributions()
    missing = {
        name: sorted(modules)
        for name, modules in third_party().items()
        if not {home.lower().replace("_", "-") for home in homes.get(name, [name])} & declared
    }
    assert missing == {}


#: Run with the unpacked wheel first on the path: verbs that import no torch, and no file of the checkout is opened.
AWAY = """
import json, sys
opened = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(tuple(sys.argv[1:3])):
        opened.append(arguments[0])
sys.addaudithook(watch)
import llmforge
from llmforge.cli import main
codes = [main(words.split()) for words in sys.argv[3:]]
print(json.dumps({"library": llmforge.__file__, "codes": codes, "opened": opened}))
"""


def test_it_prepares_a_corpus_without_the_checkout(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    write_documents(tmp_path / "texts")
    words = [
        "prepare --corpus texts --vocab_size 400 --block_size 64 --output_dir data",
        "prepare --inspect data",
        "plan --list_presets",
    ]
    done = subprocess.run(
        [sys.executable, "-c", AWAY, f"{ROOT}/llmforge/", f"{ROOT}/recipes/", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"library": str(tmp_path / "site" / "llmforge" / "__init__.py"), "codes": [0, 0, 0], "opened": []}
    assert (tmp_path / "data" / "data_card.json").is_file()


# --- the real thing ---


@pytest.mark.slow
def test_installed_in_a_fresh_environment_it_goes_all_the_way(wheel: Path, tmp_path: Path):
    """From a folder of text to an exported model, with what the index gives for the constraints, far from any checkout."""
    bin_folder = tmp_path / "environment" / "bin"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LLMFORGE"))}
    environment = {**clean, "LLMFORGE_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    away = tmp_path / "away"
    away.mkdir()

    def run(*words: str | Path, code: int = 0, given: str = "") -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=away,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        assert "Traceback" not in done.stderr
        assert str(ROOT) not in done.stdout + done.stderr
        return done.stdout

    run(Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", bin_folder.parent)
    python, forge = bin_folder / "python", bin_folder / "llmforge"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    assert run(python, "-m", "pip", "check").strip() == "No broken requirements found."
    assert run(python, "-c", "import llmforge; print(llmforge.__file__)").startswith(str(bin_folder.parent))

    versions = json.loads(run(forge, "--version", "--json"))
    assert versions["llmforge"] == llmforge.__version__
    assert None not in versions.values()
    assert run(forge, "--help") == run(python, "-m", "llmforge", "--help")

    write_documents(away / "texts", suffix=".txt")
    shape = "--preset gpt2-10m --n_layer 2 --n_embd 32 --n_head 2 --vocab_size 400 --block_size 64".split()
    run(forge, "prepare", "--corpus", "texts", "--vocab_size", "400", "--block_size", "64", "--output_dir", "data")
    run(
        forge,
        "pretrain",
        "--corpus",
        "texts",
        *shape,
        "--max_steps",
        "6",
        "--eval_steps",
        "3",
        "--logging_steps",
        "1",
        "--output_dir",
        "run",
    )
    assert json.loads((away / "run" / "exit.json").read_text())["exit_code"] == 0
    lines = [json.loads(line) for line in (away / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert json.loads(run(forge, "evaluate", "--model", "run", "--dataset_dir", "data", "--split", "test", "--json"))
    assert run(forge, "generate", "--model", "run", "--prompt", "package p1", "--max_new_tokens", "8").strip()
    run(forge, "export", "--model", "run", "--format", "safetensors", "--output", "exported")
    assert (away / "exported" / "model.safetensors").is_file()
    # What is not installed is named with the extra that brings it.
    told = run(forge, "export", "--model", "run", "--format", "gguf", "--output", "model.gguf", "--json")
    assert json.loads(told)["verified"] is False
    run(forge, "pretrain", "--corpus", "texts", *shape, "--report_to", "wandb", "--output_dir", "tracked", code=2)
