"""Which files of a tree are taken, in which order."""

from __future__ import annotations

import os

import pytest

from llmforge.configs.source import Source
from llmforge.errors import DataError


def names(found) -> list[str]:
    return [unit.name for unit in found[0]]


def test_units_come_sorted_by_their_whole_names(write, load):
    files = ["b.go", "a/z.go", "a/b/c.go", "a.go", "a-b.go", "C.go", "ä.go", "a0.go"]
    assert names(load(write(dict.fromkeys(files, "text")))) == sorted(files)


def test_the_first_files_by_name(write, load):
    write({"b.go": "b", "a/z.go": "z", "a.go": b"\0", "c.go": "c", "0.xyz": "?"})
    assert names(load(write({}), max_files=2)) == ["a/z.go", "b.go"]


# .gitignore


@pytest.mark.parametrize(
    ("rules", "left_out"),
    [
        ({".gitignore": "*.gen.go\n"}, ["a.gen.go", "sub/b.gen.go"]),
        ({".gitignore": "/a.gen.go\n# a comment\n\n"}, ["a.gen.go"]),
        ({".gitignore": "sub/\n"}, ["sub"]),
        ({".gitignore": "*.gen.go\n!b.gen.go\n"}, ["a.gen.go"]),
        ({".gitignore": "*.gen.go\n", "sub/.gitignore": "!*.gen.go\n/deep/\n"}, ["a.gen.go", "sub/deep"]),
        ({"sub/.gitignore": "/b.gen.go\n*.txt\n"}, ["sub/b.gen.go", "sub/deep/n.txt"]),
        ({".gitignore": "sub/*\n!sub/deep/\n"}, ["sub/b.gen.go"]),
        ({".gitignore": b"\xff\xfe\n!\n**\\\n[\na.go\n"}, ["a.go"]),
    ],
)
def test_what_gitignore_names_is_left_out_and_counted(write, load, rules, left_out):
    everything = ["a.gen.go", "a.go", "sub/b.gen.go", "sub/deep/n.txt"]
    write(dict.fromkeys(everything, "text") | rules)
    found = load(write({}))
    gone = [name for name in everything if any(name == out or name.startswith(f"{out}/") for out in left_out)]
    assert names(found) == [name for name in everything if name not in gone]
    assert found[2].skipped["named by .gitignore"] == len(left_out)


def test_gitignore_can_be_kept_out_of_it(write, load):
    write({".gitignore": "*.go", "a.go": "a"})
    assert names(load(write({}), gitignore=False)) == ["a.go"]
    assert names(load(write({}), gitignore=True, format="code")) == []


def test_gitignore_means_nothing_to_a_folder_of_text(write, load):
    assert names(load(write({".gitignore": "*.txt", "a.txt": "a"}), format="text")) == ["a.txt"]


# Other people's code


def test_vendored_folders_and_minified_files_are_left_out_of_code(write, load):
    write({"vendor/x.go": "x", "web/node_modules/deep/y.js": "y", "jquery.min.js": "z", "a.js": "a", "vendor.go": "v"})
    found = load(write({}), format="code")
    assert names(found) == ["a.js", "vendor.go"]
    assert found[2].skipped == {"vendored folder": 2, "minified by its name": 1}
    assert len(load(write({}), format="code", keep_generated=True)[0]) == 5


def test_a_vendored_folder_that_is_named_is_read(write, load):
    assert names(load(write({"vendor/x.go": "x"}) / "vendor", format="code")) == ["x.go"]


def test_a_minified_file_that_is_named_is_read(write, load):
    assert names(load(write({"x.min.js": "x"}) / "x.min.js", format="code")) == ["x.min.js"]


def test_a_folder_of_text_may_be_called_vendor(write, load):
    assert names(load(write({"vendor/x.txt": "x"}), format="text")) == ["vendor/x.txt"]


# Globs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/**/*.md", ["a.md", "sub/b.md", "sub/deep/c.md"]),
        ("docs/*.md", ["a.md"]),
        ("docs/*/*.md", ["sub/b.md"]),
        ("docs/sub/?.md", ["b.md"]),
        ("docs/s[tu]b/*.md", ["sub/b.md"]),
        ("docs/**", ["a.md", "sub/b.md", "sub/deep/c.md", "sub/x.txt"]),
        ("*/*.log", ["docs/y.log"]),
    ],
)
def test_a_glob_takes_what_it_matches(write, load, pattern, expected):
    write(dict.fromkeys(["docs/a.md", "docs/sub/b.md", "docs/sub/deep/c.md", "docs/sub/x.txt", "docs/y.log", "other/d.md"], "t"))
    found = load(f"{write({})}/{pattern}")
    assert names(found) == expected
    assert {document.kind for document in found[1]} <= {"markdown", "text"}


def test_a_relative_glob_and_one_for_the_home_folder(write, load, root, monkeypatch):
    write({"a.md": "a"})
    monkeypatch.chdir(root)
    assert names(load("*.md")) == ["a.md"]
    monkeypatch.setenv("HOME", str(root))
    assert names(load("~/*.md")) == ["a.md"]


def test_a_path_that_looks_like_a_glob_and_exists_is_a_path(write, load):
    assert names(load(write({"[draft].md": "a", "d.md": "b"}) / "[draft].md")) == ["[draft].md"]


def test_a_glob_without_a_folder_to_start_from_is_refused(root, load):
    with pytest.raises(DataError, match=r"nowhere/\*\.md: no such file or folder"):
        load(root / "nowhere" / "*.md")


def test_file_urls_are_paths(write, load):
    assert names(load(f"file://{write({'a.md': 'a'})}")) == ["a.md"]


# Strange trees


def test_names_that_are_no_utf8(root, load):
    path = os.fsencode(root) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"text")
    _, documents, _ = load(root)
    (document,) = documents
    assert document.text == "text"
    document.name.encode("utf-8")


def test_deep_trees_do_not_recurse(root, load):
    folder = root
    for _ in range(300):
        folder = folder / "d"
        folder.mkdir()
    (folder / "a.go").write_text("a")
    assert len(load(root)[0]) == 1


def test_a_file_that_cannot_be_opened_is_counted_or_stops(write, load, monkeypatch):
    write({"a.go": "a", "b.go": "b"})
    stock = open

    def denied(path, *args, **kwargs):
        if str(path).endswith("a.go"):
            raise PermissionError(13, "Permission denied", path)
        return stock(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", denied)
    found = load(write({}))
    assert names(found) == ["b.go"]
    assert found[2].examples == {"unreadable (Permission denied)": ["a.go"]}
    with pytest.raises(DataError, match=r"a\.go: unreadable"):
        load(write({}), strict=True)


def test_a_file_that_changes_after_it_was_found_is_refused(write):
    from llmforge.data.documents import Account
    from llmforge.data.sources.units import find_units, read_unit

    path = write({"a.go": "short"}) / "a.go"
    (unit,) = find_units(Source(path=str(path)), Account())
    path.write_text("longer than before")
    with pytest.raises(DataError, match=r"a\.go changed"):
        list(read_unit(unit, Account()))


# What stays together


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("document", ["", "", ""]),
        ("file", ["a/x.txt", "a/x.txt", "y.txt"]),
        ("folder", ["a", "a", "."]),
    ],
)
def test_documents_carry_the_group_that_a_split_never_parts(write, load, group_by, groups):
    write({"a/x.txt": "one\n\ntwo\n", "y.txt": "three"})
    documents = load(write({}), group_by=group_by, format="text", segment="paragraph")[1]
    assert [document.group for document in documents] == groups
