"""Gather README, docs/ and what they link to as pages of one site, and build it strictly.

python docs/build_site.py            # build/site/index.html; a broken link or a page outside the navigation ends it with 1

The pages stay as they read on a forge: a link that leaves docs/, to a recipe or a folder, leads there. A site has no such
files, so each file that is linked becomes a page that shows it, and each folder one that lists it. Notebooks become Markdown.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Pages that lie beside docs/, and what they are called in the site.
BESIDE = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]*)(#[^)]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml", ".json": "json", ".go": "go"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose pages are built")
    root = parser.parse_args(argv).root.resolve()
    config = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = root / config["docs_dir"]
    for folder in (pages, root / config["site_dir"]):
        shutil.rmtree(folder, ignore_errors=True)
    missing = gather(root, pages)
    written = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md") if "files" not in path.relative_to(pages).parts}
    listed = set(leaves(config["nav"]))
    wrong = [f"error: {link} does not exist" for link in missing]
    wrong += [f"error: {page} is not in the nav of zensical.toml" for page in sorted(written - listed)]
    wrong += [f"error: {page}, in the nav of zensical.toml, does not exist" for page in sorted(listed - written)]
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    built = subprocess.run([Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"], cwd=root, check=False)
    return 1 if wrong or built.returncode else 0


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(part)


def gather(root: Path, pages: Path) -> list[str]:
    """Write every page and picture of the site to `pages`; gives the links that lead nowhere, as ``page: target``."""
    site = Site(root, pages)
    for source, name in BESIDE.items():
        site.page(root / source, name)
    for path in sorted((root / "docs").rglob("*")):
        name = path.relative_to(root / "docs").as_posix()
        if path.suffix == ".md":
            site.page(path, name)
        elif path.suffix == ".ipynb":
            site.write(name.removesuffix(".ipynb") + ".md", notebook(path, name, site))
        elif path.suffix in (".png", ".css"):
            site.copy(path, name)
    return site.missing


class Site:
    """The folder of pages, and where in it a file of the checkout is found."""

    def __init__(self, root: Path, pages: Path) -> None:
        self.root = root
        self.pages = pages
        self.missing: list[str] = []

    def write(self, name: str, text: str) -> None:
        path = self.pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def copy(self, path: Path, name: str) -> None:
        (self.pages / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.pages / name)

    def page(self, source: Path, name: str) -> None:
        self.write(name, self.linked(source.read_text(encoding="utf-8"), source, name))

    def linked(self, text: str, source: Path, name: str) -> str:
        """`text` with its links, which hold beside `source`, as they are from the page `name`; code is left alone."""

        def replace(match: re.Match[str]) -> str:
            opening, target, anchor = match[1], match[2], match[3] or ""
            if not target or "://" in target or target.startswith("mailto:"):
                return match[0]
            place = self.place(Path(os.path.normpath(source.parent / target)))
            if place is None:
                self.missing.append(f"{source.relative_to(self.root)}: {target}")
                return match[0]
            return f"{opening}{posixpath.relpath(place, posixpath.dirname(name) or '.')}{anchor})"

        parts = re.split(r"(^(`{3,}).*?^\2$)", text, flags=re.MULTILINE | re.DOTALL)
        del parts[2::3]  # how many backticks
        return "".join(part if index % 2 else LINK.sub(replace, part) for index, part in enumerate(parts))

    def place(self, path: Path) -> str | None:
        """Where the site has this file or folder, written now if it has to be; None where there is no such thing."""
        if not path.is_relative_to(self.root) or not path.exists():
            return None
        name = path.relative_to(self.root).as_posix()
        if name in BESIDE:
            return BESIDE[name]
        if path.is_file() and name.startswith("docs/") and path.suffix in (".md", ".png", ".ipynb"):
            return name.removeprefix("docs/").replace(".ipynb", ".md")
        if path.is_dir() and (path / "README.md").is_file() and name.startswith("docs/"):
            return f"{name.removeprefix('docs/')}/README.md"
        shown = f"files/{name.replace('.', '_')}.md"
        if not (self.pages / shown).exists():
            self.write(shown, folder(path, name) if path.is_dir() else file(path, name))
        return shown


def file(path: Path, name: str) -> str:
    """A page that shows a file."""
    return f"# `{name}`\n\n{fenced(path.read_text(encoding='utf-8', errors='replace'), LANGUAGES.get(path.suffix, 'text'))}"


def folder(path: Path, name: str) -> str:
    """A page that lists a folder."""
    inside = [inner for inner in sorted(path.rglob("*")) if inner.is_file() and "__pycache__" not in inner.parts]
    lines = [inner.relative_to(path).as_posix() for inner in inside]
    return f"# `{name}/`\n\nIn the repository, {len(lines)} files.\n\n{fenced(chr(10).join(lines), 'text')}"


def fenced(text: str, language: str) -> str:
    """`text` as code, whatever fences are in it."""
    marks = max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1
    return f"{'`' * marks}{language}\n{text.rstrip()}\n{'`' * marks}\n"


def notebook(path: Path, page: str, site: Site) -> str:
    """A notebook with its stored outputs as Markdown; its pictures are written beside the page."""
    blocks = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            blocks.append(site.linked(source, path, page))
            continue
        blocks.append(fenced(source, "python"))
        for index, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                picture = site.pages / f"{page.removesuffix('.ipynb')}-{number}-{index}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                blocks.append(f"![what cell {cell['execution_count']} draws]({picture.name})")
            elif "text/html" in data:
                html = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
                blocks.append(f'<div class="output">{html.strip()}</div>')
            elif "text/plain" in data or "text" in output:
                blocks.append(fenced("".join(data.get("text/plain", output.get("text"))), "text"))
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    sys.exit(main())
