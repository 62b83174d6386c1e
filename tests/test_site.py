"""The documentation as a site: it builds, whole and from nothing on the network, and a fault in it fails the build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("zensical", reason="the extra docs is not installed")


def build(root: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build_site.py", "--root", root],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with everything of the checkout, of which docs and the pages at the top may be changed."""
    for path in ROOT.iterdir():
        if path.name in ("docs", "zensical.toml") or path.suffix == ".md":
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name)
        elif not path.name.startswith(".") and path.name not in ("build", "runs"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_site_is_whole_and_needs_no_network(checkout: Path):
    code, printed = build(checkout)
    assert code == 0, printed
    site = checkout / "build" / "site"
    pages = {path.relative_to(checkout / "docs").with_suffix(".html").as_posix() for path in (checkout / "docs").rglob("*.md")}
    pages = {page.replace("README", "index") for page in pages} | {"index.html", "CONTRIBUTING.html", "notebooks/ten_lines.html"}
    assert [page for page in pages if not (site / page).is_file()] == []
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="files/recipes/samples/go.html"' in start  # where the forge has the folder
    assert 'src="images/demo-loss.png"' in start
    assert "stack_test.go" in (site / "files/recipes/samples/go.html").read_text(encoding="utf-8")
    assert "DatasetDict({" in (site / "notebooks/ten_lines.html").read_text(encoding="utf-8")
    dynamics = (site / "notebooks/training-dynamics.html").read_text(encoding="utf-8")
    assert "func Add(a, b int) int {\n" in re.sub(r"<[^>]+>", "", dynamics)  # coloured token by token, line by line
    assert list((site / "notebooks").glob("ten_lines-*.png"))
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text(encoding="utf-8")
        )
        assert loaded == [], page


def test_a_fault_fails_the_build(checkout: Path):
    with (checkout / "docs/how-to/generate.md").open("a", encoding="utf-8") as page:
        page.write("[a page](nowhere.md), [a heading](finetune.md#nowhere), [its own](#nowhere-here)\n")
        page.write("![a picture](../images/nothing.png), [a file](../../recipes/nothing.py)\n")
        page.write("```text\n[in code](nothing-at-all.md)\n```\n")
    (checkout / "docs/how-to/lost.md").write_text("# In no navigation\n")
    code, printed = build(checkout)
    assert code == 1
    for target in ("nowhere.md", "../images/nothing.png", "../../recipes/nothing.py"):
        assert f"error: docs/how-to/generate.md: {target} does not exist" in printed
    assert len(re.findall(r"Warning: anchor does not exist", printed)) == 2
    assert "how-to/lost.md is not in the nav" in printed
    assert "nothing-at-all" not in printed


def test_an_anchor_alone_fails_the_build(checkout: Path):
    with (checkout / "README.md").open("a", encoding="utf-8") as page:
        page.write("[a heading](docs/how-to/finetune.md#nowhere)\n")
    code, printed = build(checkout)
    assert code == 1
    assert "anchor does not exist" in printed
