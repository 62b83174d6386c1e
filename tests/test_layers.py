"""The order of the library: a module imports only what stands above it.

`ORDER` is design.md's table, a set a step: modules of one set are independent of one another, and
the modules of a folder stand one below the other. A module may import from earlier sets only.

Imports inside functions count, and so do those under ``TYPE_CHECKING``: an annotation ties two
modules together as much as a call does, and nothing in the library needs the exception.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers import ROOT

LIBRARY = ROOT / "llmforge"
RECIPES = ROOT / "recipes"


def folder(name: str, *steps: str) -> list[set[str]]:
    """One set a word, or a group of words in a step, each as ``name.word``."""
    return [{f"{name}.{word}" for word in step.split()} for step in steps]


#: What the callbacks themselves stand on.
_FIRST_CALLBACKS = ("forge_callback", "media", "tracker")

ORDER: list[set[str]] = [
    {"errors"},
    *folder("storage", "files", "records"),
    *folder(
        "configs",
        "source units",
        "data deadline generation model tokenizer training checkpoint remote lora export plan monitor",
        "evaluation doctor",
        "run",
        "finetune tuning defaults",
    ),
    {"yaml_files", "flag_help"},
    {"parsing"},
    *folder(
        "runtime",
        "children devices",
        "launch",
        "precision",
        "logs",
        "versions",
        "run_lock signals run_folder",
        "trackers",
        "clock",
        "commands",
    ),
    {"sharding"},
    {"cross_entropy", "muon", "segments", "fast_merges"},
    {"tokenization", "metrics", "losses", "attention", "optimizers"},
    {"fast_tokens"},
    {"models"},
    *folder(
        "data",
        "documents hashing bins functions arrow",
        "shingles generated gutenberg markdown boilerplate mending path_header",
        "cleaning dedup packing mixing",
    ),
    *folder("data.formats", "streams sandbox", "templates", "records", "jsonl json_file csv_file parquet npz hub python_source"),
    *folder(
        "data.sources",
        "kinds cutting ignoring",
        "streams",
        "walk archives clients",
        "remote",
        "finding reading known",
        "units",
        "corpus",
    ),
    *folder(
        "data",
        "splits",
        "shards rows dataset_writer",
        "corpus",
        "reading",
        "encode allot prepared",
        "card picture token_runs show",
        "leaks",
        "prepare",
        "sampler",
        "collate",
        "windows",
    ),
    *folder(
        "checkpoints",
        "manifest",
        "commit",
        "retention metadata snapshot resume drift agreement",
        "parts restore",
        "writer",
        "checksums failures stores",
        "objects",
        "remote",
        "mirrored probe uploads",
        "fetch",
        "courier",
        "records tidying waiting",
        "sync",
        "summary compare",
        "render",
        "outline status",
        "transfer",
        "inspect",
    ),
    *folder("pretrained", "folder origin", "adapters beside", "loading"),
    *folder("tasks", "fields prompts yaml_text", "task", "files scenarios rows", "examples splits"),
    *folder("sampling", "completions", "turns", "dialogue"),
    {"generate"},
    {"history"},
    *folder("viewing", "text", "lines curves settings", "standing samples saved words", "run", "verdicts"),
    *folder("reporting", "thinning", "charts", "tables", "page"),
    {"report"},
    *folder("monitoring", "rows encoding terminal log", "brief", "curves", "parts tables", "screen", "live"),
    *folder("callbacks", *_FIRST_CALLBACKS),
    {f"callbacks.{path.stem}" for path in (LIBRARY / "callbacks").glob("*.py")}
    - {"callbacks.__init__", *(f"callbacks.{name}" for name in _FIRST_CALLBACKS)},
    {"checkpointing", "mirroring"},
    {"ending", "recall"},
    {"trainer"},
    {"build"},
    *folder("tuning", "shape", "start"),
    *folder(
        "planning",
        "shapes",
        "optimizer_state activations",
        "memory",
        "speed requirements corpus advice",
        "outline dial",
        "table flags",
    ),
    {"speed_probe"},
    {"dial"},
    *folder(
        "diagnosis",
        "findings",
        "machine",
        "system disk installed cards heat stack numerics speed tracking trial store",
        "model_step verdict",
        "child asking show",
        "examination",
    ),
    {"results", "plan", "run", "auto_batch"},
    *folder(
        "scoring",
        "text figures tasks fields",
        "pairs sums rows answers",
        "samples matching",
        "result",
        "compare show harness on_text on_rows",
    ),
    {"evaluation"},
    *folder("exporting", "lines gguf_file server folder places modelfile", "check", "card"),
    {"pretrain", "export", "convert", "prepare", "tokenizer", "doctor", "monitor"},
    {"finetune"},
    {"cli"},
    {"__main__", "__init__"},
]

HUGGING_FACE = {"transformers", "datasets", "tokenizers", "accelerate", "peft", "evaluate", "safetensors", "huggingface_hub"}


def sources(root: Path) -> dict[str, str]:
    """Module name, relative to `root`, → source; a folder's ``__init__`` goes by the folder's name and a dot."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts) if len(parts) == 1 or parts[-1] != "__init__" else ".".join(parts[:-1]) + "."
        found[name] = path.read_text(encoding="utf-8")
    return found


def imported(module: str, source: str, modules: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Line and module, relative to llmforge, of each import of the library in `source`, at any depth."""
    # What a leading dot means: the folder that the module is in; an __init__ is its folder.
    package = ["llmforge", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "llmforge":
                continue
            rest = name.split(".")[1:]
            # `from llmforge.a import b`: b is a module, or a name in a, or a name of the package itself.
            while rest and ".".join(rest) not in modules and ".".join(rest) + "." not in modules:
                rest.pop()
            yield node.lineno, ".".join(rest) or "__init__"


def violations(modules: Mapping[str, str], order: list[set[str]] = ORDER) -> list[str]:
    """What imports from its own row or one below, or has no row."""
    row = {name: number for number, step in enumerate(order) for name in step}
    for name in [name for name in row if "." in name]:
        # A folder's own __init__ stands where the first of its modules does.
        row.setdefault(name.rpartition(".")[0] + ".", row[name])
    found = []
    for module, source in modules.items():
        if module not in row:
            found.append(f"{module} has no row in the table")
            continue
        for line, target in imported(module, source, modules):
            place = row.get(target, row.get(f"{target}."))
            if place is None or place >= row[module]:
                found.append(f"{module}:{line} imports {target}, which does not stand above it")
    return found


def test_each_module_imports_only_what_stands_above_it():
    modules = sources(LIBRARY)
    assert len(modules) > 30
    assert violations(modules) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from llmforge.storage import write_text"),
        ("errors", "import llmforge.storage"),
        ("storage", "def f():\n    from llmforge import parsing"),
        ("storage", "from . import parsing"),
        ("runtime.devices", "from .launch import rank"),
        ("runtime.devices", "from ..pretrain import main"),
        ("runtime.devices", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmforge.runtime.commands import x"),
        ("losses", "from llmforge.metrics import summarise"),
        ("prepare", "from llmforge.pretrain import main"),
        ("models", "from llmforge import build_trainer"),
        ("data.packing", "from llmforge.data.rows import PackedRows"),
        ("data.", "from llmforge.data.rows import PackedRows"),
        ("misc", "import os"),
    ],
)
def test_planted_violation_is_seen(module: str, source: str):
    clean = dict.fromkeys(sources(LIBRARY), "")
    assert violations(clean) == []
    assert len(violations({**clean, module: source})) == 1


def test_imports_from_above_are_allowed():
    clean = dict.fromkeys(sources(LIBRARY), "")
    source = "from llmforge import errors\nfrom ..configs import data\nfrom .devices import Device\nimport os, torch"
    assert violations({**clean, "runtime.launch": source}) == []


def test_only_the_last_row_imports_by_name():
    """`importlib.import_module` would pass the walk above by."""
    users = {name for name, source in sources(LIBRARY).items() if re.search(r"import_module|__import__", source)}
    assert users == {"cli", "__init__", "data.functions"}  # the last one: functions of the user's own


def test_nothing_is_called_utils():
    assert [path for path in LIBRARY.rglob("*.py") if "util" in path.stem] == []


def test_no_module_shadows_a_package():
    """A script beside it, run by path, would import the wrong one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    packages = {re.match(r"[\w.-]+", line)[0].lower().replace("-", "_") for line in lines} | HUGGING_FACE | {"yaml", "torch"}
    assert len(packages) > 15
    for root in (LIBRARY, RECIPES, ROOT / "tests"):
        assert {path.stem for path in root.rglob("*.py")} & packages == set(), root
    assert {path.stem for path in RECIPES.glob("*.py")} & set(sys.stdlib_module_names) == set()


def imports_of_recipes(source: str, recipes: set[str]) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in recipes]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in recipes:
            found.append(node.module)
    return found


def test_recipes_are_never_imported():
    recipes = {"recipes", *(path.stem for path in RECIPES.glob("*.py"))}
    assert imports_of_recipes("def f():\n    import pretrain_go", recipes) == ["pretrain_go"]
    assert imports_of_recipes("from recipes.pretrain_go import main", recipes) == ["recipes.pretrain_go"]
    assert not (RECIPES / "__init__.py").exists()
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert imports_of_recipes(path.read_text(encoding="utf-8"), recipes) == [], path


_NOT_IN_A_RECIPE = (
    *(ast.For, ast.AsyncFor, ast.While, ast.ClassDef, ast.Lambda, ast.Try),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def recipe_faults(source: str, public: set[str]) -> list[str]:
    """What a recipe must not have: length, loops, classes, other imports, names that are not public."""
    faults = []
    if source.count("\n") >= 100:
        faults.append("100 lines or more")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _NOT_IN_A_RECIPE):
            faults.append(f"line {node.lineno}: {type(node).__name__}")
        elif isinstance(node, ast.Import):
            allowed = {"llmforge", *HUGGING_FACE, *sys.stdlib_module_names}
            faults += [f"import {a.name}" for a in node.names if a.name.split(".")[0] not in allowed or a.name[:9] == "llmforge."]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or "."
            if module == "llmforge":
                faults += [f"from llmforge import {alias.name}" for alias in node.names if alias.name not in public]
            elif module.split(".")[0] not in HUGGING_FACE | set(sys.stdlib_module_names):
                faults.append(f"from {module} import …")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "llmforge":
            faults += [f"llmforge.{node.attr}"] if node.attr not in public else []
    return faults


def recipe_paths() -> list[Path]:
    return sorted(RECIPES.glob("*.py"))


def test_there_are_recipes():
    assert recipe_paths()


@pytest.mark.parametrize("path", recipe_paths(), ids=lambda path: path.stem)
def test_recipe_calls_only_public_names(path: Path):
    import llmforge

    assert recipe_faults(path.read_text(encoding="utf-8"), set(llmforge.__all__)) == []


@pytest.mark.parametrize(
    "source",
    [
        "for i in range(3):\n    print(i)",
        "sizes = [i for i in (1, 2)]",
        "class Mine:\n    pass",
        "import torch",
        "import llmforge.trainer",
        "from llmforge.trainer import ForgeTrainer",
        "from llmforge import secret",
        "import llmforge\nllmforge.secret()",
        "from helpers import ROOT",
        "x = 1\n" * 100,
    ],
)
def test_planted_recipe_fault_is_seen(source: str):
    assert len(recipe_faults(source, {"build_model"})) == 1


def test_a_plain_recipe_has_no_fault():
    source = "import sys\nimport llmforge\nfrom transformers import AutoTokenizer\nllmforge.build_model(sys.argv)\n"
    assert recipe_faults(source, {"build_model"}) == []
