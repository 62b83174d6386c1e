"""``module:function``: found where the user is, and every way to get it wrong said in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from llmforge.data.functions import load_function, where_raised
from llmforge.errors import ConfigError


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch):
    """What a test imports or puts on the path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_function(spec, "--cleaner")
    message = str(caught.value)
    assert message.startswith(f"--cleaner {spec!r}")
    assert "\n" not in message
    return message


def test_a_function_of_the_current_folder_and_of_a_package(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def clean(text):\n    return text.upper()\nclass Box:\n    @staticmethod\n    def f(): return 3\n"
    )
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "inner.py").write_text("clean = len\n")
    assert load_function("mine:clean", "--cleaner")("a") == "A"
    assert load_function("mine:Box.f", "--cleaner")() == 3
    assert load_function("bag.inner:clean", "--cleaner") is len
    assert load_function("textwrap:dedent", "--cleaner")("  a") == "a"


def test_the_current_folder_hides_nothing_from_others(tmp_path: Path):
    """A file named like a library is found by the user's spec, and not by the rest of the program."""
    (tmp_path / "mine.py").write_text("def f():\n    import helper_of_mine\n    return helper_of_mine.VALUE\n")
    (tmp_path / "helper_of_mine.py").write_text("VALUE = 5\n")
    (tmp_path / "colorsys.py").write_text("MINE = True\n")
    sys.modules.pop("colorsys", None)
    assert load_function("mine:f", "--cleaner")() == 5  # imported when it runs, not when it is loaded
    import colorsys

    assert not hasattr(colorsys, "MINE")


def test_a_file_of_the_user_comes_before_a_library_of_the_same_name(tmp_path: Path):
    (tmp_path / "colorsys.py").write_text("def clean(text): return 'mine'\n")
    sys.modules.pop("colorsys", None)
    assert load_function("colorsys:clean", "--cleaner")("x") == "mine"
    import colorsys

    assert colorsys.rgb_to_hls(0, 0, 0) == (0, 0, 0)  # the library's, for everybody else


@pytest.mark.parametrize("spec", ["", "mine", "mine:", ":clean"])
def test_no_function_named(spec: str):
    assert "module:function" in refusal(spec)


@pytest.mark.parametrize("spec", ["mine.py:clean", "./mine.py:clean"])
def test_a_path_is_no_module(spec: str):
    assert "Write mine:clean." in refusal(spec)


def test_what_is_missing_is_named(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def clean(text): return text\nVALUE = 3\n")
    (tmp_path / "needy.py").write_text("x = 1\nimport no_such_library\n")
    assert "there is no module 'absent'" in refusal("absent:clean")
    assert "there is no module 'mine.sub'" in refusal("mine.sub:clean")
    assert "mine (mine.py) has no 'claen'. Did you mean clean?" in refusal("mine:claen")
    assert "of type int" in refusal("mine:VALUE")
    assert "ModuleNotFoundError at needy.py:2: No module named 'no_such_library'" in refusal("needy:clean")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = 1\n\ndef clean(:\n", "SyntaxError at broken.py:3"),
        ("x = 1\nx / 0\n", "ZeroDivisionError at broken.py:2: division by zero"),
        ("import sys\nsys.exit('bye')\n", "SystemExit at broken.py:2: bye"),
    ],
)
def test_a_module_that_does_not_import(tmp_path: Path, body: str, expected: str):
    (tmp_path / "broken.py").write_text(body)
    assert expected in refusal("broken:clean")


def test_the_line_is_the_users_even_where_a_library_raised(tmp_path: Path):
    (tmp_path / "mine.py").write_text("import json\n\ndef clean(text):\n    return json.loads(text)\n")
    function = load_function("mine:clean", "--cleaner")
    with pytest.raises(ValueError) as caught:
        function("{")
    assert where_raised(caught.value, function) == "mine.py:4"


def test_the_folder_is_found_by_an_installed_command_too(tmp_path: Path):
    """A console script has its own folder on the path, not the current one: no -c or -m here, which add it."""
    (tmp_path / "mine.py").write_text("def clean(text): return text\n")
    script = tmp_path / "bin" / "script.py"
    script.parent.mkdir()
    script.write_text(
        f"import sys; sys.path.insert(1, {str(ROOT)!r})\nfrom llmforge.data.functions import load_function\n"
        "print(load_function('mine:clean', '--cleaner')('found'))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "found\n", done.stderr
