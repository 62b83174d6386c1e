"""The command as a user meets it."""

from __future__ import annotations

import importlib
import inspect
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import llmforge
from llmforge import cli
from llmforge.cli import VERBS

#: What importing costs seconds.
HEAVY = ("torch", "transformers", "numpy", "datasets", "accelerate", "pandas", "matplotlib")

#: What is to import none of it.
COMMANDS = [[], ["--help"], ["--version"], ["--version", "--json"], ["pretrian"]]
COMMANDS += [["plan", "--list_presets"], ["plan", "--list_presets", "--json"]]

LIGHT = """
import contextlib, io, json, sys
def heavy():
    return [name for name in {heavy} if name in sys.modules]
seen = {{}}
import llmforge
dir(llmforge), llmforge.__version__, llmforge.ConfigError, llmforge.DataArguments
seen["import llmforge"] = heavy()
from llmforge.cli import main
for argv in {commands}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(argv)
    seen[" ".join(["llmforge", *argv])] = heavy()
print(json.dumps(seen))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command], capture_output=True, text=True, timeout=60)


def test_help_version_and_plan_answer_at_once():
    """They import none of the libraries that take seconds."""
    done = run(sys.executable, "-c", LIGHT.format(heavy=HEAVY, commands=COMMANDS))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == 1 + len(COMMANDS)
    assert {what: heavy for what, heavy in seen.items() if heavy} == {}


def test_check_of_lightness_would_see_a_heavy_import():
    code = LIGHT.format(heavy=HEAVY, commands=COMMANDS).replace("import llmforge\n", "import llmforge, numpy\n", 1)
    done = run(sys.executable, "-c", code)
    assert json.loads(done.stdout)["llmforge --help"] == ["numpy"]


@pytest.mark.parametrize("argv", [["--help"], ["pretrian"], ["plan", "--list_presets", "--json"]])
def test_module_and_console_command_are_the_same(argv: list[str]):
    script = Path(sys.executable).with_name("llmforge")
    if not script.exists():
        pytest.skip("the package is not installed")
    module, console = run(sys.executable, "-m", "llmforge", *argv), run(str(script), *argv)
    assert (module.returncode, module.stdout, module.stderr) == (console.returncode, console.stdout, console.stderr)


def test_usage_is_shown_for_help_and_for_nothing(capsys: pytest.CaptureFixture[str]):
    for argv in (["--help"], ["-h"], ["help"], []):
        assert cli.main(argv) == 0
        out, err = capsys.readouterr()
        assert (out, err) == (cli.usage() + "\n", "")
    for verb, (_, text) in VERBS.items():
        assert f"  {verb}" in cli.usage()
        assert text in cli.usage()


def test_version_names_the_stack(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["llmforge"] == llmforge.__version__
    assert lines["Python"] == platform.python_version()
    assert re.fullmatch(r"2\.\S+ \((CPU|CUDA [\d.]+|ROCm [\d.]+)\)", lines["torch"])
    assert lines["transformers"].startswith("5.")
    assert {"accelerate", "datasets", "tokenizers", "peft"} < set(lines)


def test_version_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmforge.runtime.versions._STACK", ("llmforge", "torch", "no-such-package"))
    assert cli.main(["--version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["llmforge"], told["python"]) == (llmforge.__version__, platform.python_version())
    assert told["torch_build"].startswith(("CPU", "CUDA", "ROCm"))
    assert told["no-such-package"] is None
    assert cli.main(["--version"]) == 0
    assert "no-such-package  not installed" in capsys.readouterr().out


def test_version_takes_no_other_flag(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version", "--jsno"]) == 2
    assert capsys.readouterr() == ("", "error: llmforge --version --jsno: no such flag. It takes --json only.\n")


@pytest.mark.parametrize(("verb", "nearest"), [("pretrian", "pretrain"), ("prepar", "prepare"), ("tokeniser", "tokenizer")])
def test_unknown_verb_names_the_nearest(verb: str, nearest: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb]) == 2
    assert capsys.readouterr() == ("", f"error: llmforge {verb}: no such verb. Did you mean {nearest}?\n")


def test_verb_like_none_lists_them_all(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["xyzzy"]) == 2
    shown = capsys.readouterr().err
    assert [verb for verb in VERBS if verb not in shown] == []


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]):
    module = importlib.import_module(VERBS[verb][0])
    assert module.__doc__.startswith(f"llmforge {verb}")
    try:
        code = cli.main([verb, "--help"])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: llmforge {verb}")


@pytest.mark.parametrize("action", ["train", "inspect"])
def test_every_action_of_the_tokenizer_has_help(action: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main(["tokenizer", action, "--help"])
    assert stop.value.code == 0
    assert "--vocab_size" in capsys.readouterr().out


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_refuses_an_unknown_flag_in_one_line(verb: str, capsys: pytest.CaptureFixture[str]):
    actions = {"tokenizer": ["train"], "plan": ["--list_presets"], "checkpoints": ["list", "run"], "convert": ["in", "out"]}
    action = actions.get(verb, [])
    assert cli.main([verb, *action, "--corpsu", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "--corpsu" in err


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_is_a_module_to_run(verb: str):
    source = inspect.getsource(importlib.import_module(VERBS[verb][0]))
    assert source.rstrip().endswith('if __name__ == "__main__":\n    sys.exit(run_command(main))')


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(llmforge.ConfigError, match="no such verb"):
        cli.main(["pretrian", "--debug"])


def test_planned_verbs_do_not_exist_before_they_work():
    for verb, (module, _) in VERBS.items():
        assert callable(importlib.import_module(module).main), verb


# What `import llmforge` offers.


@pytest.mark.parametrize("name", llmforge.__all__)
def test_public_name_resolves_and_is_documented(name: str):
    value = getattr(llmforge, name)
    assert value.__name__ == name
    assert value.__doc__
    # A dataclass without a docstring is given its signature as one.
    assert not value.__doc__.startswith(f"{name}(")
    assert name in dir(llmforge)


def test_public_names_are_sorted_and_unique():
    assert list(llmforge.__all__) == sorted(set(llmforge.__all__))


def test_name_that_is_none():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llmforge.no_such_name


def test_public_names_are_those_that_type_checkers_see():
    import ast

    tree = ast.parse((ROOT / "llmforge" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"llmforge.{home}" for name, home in llmforge._HOME.items()}
