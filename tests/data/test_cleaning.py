"""What is done to a document: mended, filtered, counted; and what must stay as it was."""

from __future__ import annotations

import ast
import random
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from llmforge.configs.source import Source
from llmforge.data import cleaning
from llmforge.data.cleaning import clean_document, symbol_ratio
from llmforge.data.documents import Account, Document
from llmforge.data.path_header import with_path
from llmforge.errors import DataError


def clean(text: str, kind: str = "text", name: str = "a.txt", **settings) -> tuple[str | None, Account]:
    account = Account()
    found = clean_document(Document(name, text, kind), Source(path="x", **settings), account)
    assert found is None or (found.name, found.kind) == (name, kind)
    return None if found is None else found.text, account


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("l’Ã©tÃ© Ã Paris", "l’été à Paris"),
        ("She said â€œnoâ€\x9d.", "She said “no”."),
        ("\x93quoted\x94 in Windows’ own code page", "“quoted” in Windows’ own code page"),
        ("РџСЂРёРІРµС‚, РјРёСЂ", "Привет, мир"),
        ("fine line\nvoilÃ\xa0 one\nfine line é\n", "fine line\nvoilà one\nfine line é\n"),
    ],
)
def test_mojibake_is_mended_in_prose(text: str, mended: str):
    found, account = clean(text)
    assert found == mended
    assert account.changed["mojibake mended"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "“curly” ‘quotes’, ﬁne ligatures, ＦＵＬＬ width, &lt;entities&gt; &amp;amp; 1/2 ½",
        "e\u0301 is not composed, x\u00b2 stays",
        "L’été à Paris, voilà « une » façon ; naïve Noël",
        "Мама мыла раму — «Известия»",
        "这是一个测试。",
        "می\u200cخواهم क्\u200dष 👩\u200d💻 \u200eabc\u200f",
        "ภาษา\u200bไทย",
    ],
)
def test_what_is_no_damage_stays(text: str):
    found, account = clean(text)
    assert found == text
    assert not account.changed


def test_code_keeps_every_character_but_carriage_returns_and_nul():
    text = 's = "Ã©\u200b\ufeff\x1b[31m\x07\u202e\x85"\n\x0c\ndef f():\n    """â€œ"""\n'
    assert clean(text, "code", "a.py") == (text, Account())
    found, account = clean(text.replace("\n", "\r\n") + "\0\0", "code", "a.py")
    assert found == text
    assert account.changed == {"carriage returns replaced": 1, "control characters removed": 1}


@pytest.mark.parametrize("kind", ["text", "code", "markdown", "plain"])
def test_line_ends(kind: str):
    assert clean("a\r\nb\rc\n\r\n", kind)[0] == "a\nb\nc\n\n"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("a\x00b\x07c\x7fd\te\n", "abcd\te\n"),
        ("page one\n\x0cpage two\x0cpage three", "page one\npage two\npage three"),
        ("\ufeffa\u200bb\u2060c\ufeff", "abc"),
        ("a\u202eb\u202cc\u2066d\u2069", "abcd"),
        ("text\x00\x00\x00", "text"),
    ],
)
def test_control_characters_go_from_prose(text: str, bare: str):
    found, account = clean(text)
    assert found == bare
    assert account.changed["control characters removed"] == 1


def test_prose_around_code_in_markdown_is_mended_and_the_code_is_not():
    code = "```sh\necho Ã© \u200b\x07\n```\n"
    text = f"# Ã©tÃ©\n\nA `Ã©\u200b` here\u200b, and Ã© there.\n\n{code}\n    indented Ã©\n\n<pre>\nÃ©\n</pre>\n"
    found, _ = clean(text, "markdown", "a.md")
    assert found == f"# été\n\nA `Ã©\u200b` here, and é there.\n\n{code}\n    indented Ã©\n\n<pre>\nÃ©\n</pre>\n"


def test_what_a_comment_parted_is_mended_when_it_goes():
    assert clean("She said â€<!-- x -->œno more.\n", "markdown")[0] == "She said “no more.\n"


def test_a_control_character_between_two_backticks_does_not_make_code_of_prose():
    text = "a \u200b`\u200b`` b\n``` c ```\n"
    found, _ = clean(text, "markdown", "a.md")
    assert clean(found, "markdown", "a.md")[0] == found


@pytest.mark.parametrize("settings", [{}, {"clean": False}])
def test_surrogates_that_no_file_could_hold(settings):
    found, account = clean("\ud83d\ude00 and \ud800 alone", "code", **settings)
    assert found == "😀 and \ufffd alone"
    assert account.changed["lone surrogates replaced"] == 1


@pytest.mark.parametrize(
    ("text", "reason", "settings"),
    [
        ("", "empty", {}),
        (" \n\t\u3000\n", "empty", {}),
        ("\u200b\ufeff\x00", "empty", {}),
        ("short", "too short", {"min_characters": 6}),
        ("a long one", "too long", {"max_characters": 9}),
        ("ab\n" + "x" * 11 + "\nab", "a line too long", {"max_line_characters": 10}),
        ("ab\n" + "x" * 11, "a line too long", {"max_line_characters": 10}),
        ("a-- ++ ==", "too many symbols", {"max_symbol_ratio": 0.5}),
        ("<|endoftext|>", "only special tokens", {}),
        ("\n <|endoftext|><|im_start|>\n</s> [PAD]<pad>\n", "only special tokens", {}),
    ],
)
def test_dropped_with_its_reason(text: str, reason: str, settings):
    found, account = clean(text, **settings)
    assert found is None
    assert account.skipped == {reason: 1}
    assert account.examples == {reason: ["a.txt"]}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("sixsix", {"min_characters": 6, "max_characters": 6}),
        ("x" * 10 + "\n" + "y" * 10 + "\n\n" + "z" * 10, {"max_line_characters": 10}),
        ("x" * 10 + "\n", {"max_line_characters": 10}),
        ("a--a", {"max_symbol_ratio": 0.5}),
        ("हिन्दी भाषा में लिखा हुआ", {"max_symbol_ratio": 0.01}),
        ("<|endoftext|> is the separator.", {}),
        ("[PAD] me", {}),
        ("0", {}),
    ],
)
def test_kept(text: str, settings):
    found, account = clean(text, **settings)
    assert found == text
    assert not account.skipped


def test_symbol_ratio_is_the_same_for_ascii_and_the_rest():
    assert symbol_ratio("a_b c!") == pytest.approx(2 / 6)
    assert symbol_ratio("a_b c!é") == pytest.approx(2 / 7)


def test_lines_are_measured_as_by_splitting():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("ab\n") for _ in range(rng.randrange(40)))
        limit = rng.randrange(1, 12)
        assert cleaning._has_line_over(text, limit) == any(len(line) > limit for line in text.split("\n")), (text, limit)


def test_generated_code_is_dropped_unless_kept():
    text = "// Code generated by stringer. DO NOT EDIT.\n\npackage a\n"
    assert clean(text, "code", "a.go")[1].skipped == {"generated code": 1}
    assert clean(text, "code", "a.go", keep_generated=True)[0] == text
    assert clean(text, "text", "a.txt")[0] == text


def test_switched_off_only_empty_documents_go():
    text = "<|endoftext|>\r\nÃ©\x07\u200b" + "x" * 200_000
    assert clean(text, clean=False, min_characters=300_000) == (text, Account())
    assert clean(" \n", clean=False)[1].skipped == {"empty": 1}


def test_front_matter_is_dropped_or_kept():
    text = "---\ntitle: A [b](c)\n---\n\nSee [this](u).\n"
    assert clean(text, "markdown")[0] == "See this.\n"
    assert clean(text, "markdown", front_matter="keep")[0] == "---\ntitle: A [b](c)\n---\n\nSee this.\n"


def test_a_book_is_counted_and_one_without_markers_too():
    book = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\nWords.\n\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
    found, account = clean(book, format="gutenberg")
    assert found == "Words.\n"
    assert account.changed == {"Gutenberg header removed": 1, "Gutenberg licence removed": 1}
    assert clean("Words.\n", format="gutenberg")[1].changed == {"no Gutenberg markers found": 1}
    assert clean("Words.\n", name="book.txt#3", format="gutenberg")[1].changed == {}  # a section of a stripped book
    assert clean(book)[0] == book  # as plain text it is what it is


@pytest.fixture
def cleaner(monkeypatch):
    """Sets the function that ``--cleaner own:f`` names."""

    def use(function):
        monkeypatch.setattr(cleaning, "_cleaner", lambda spec: function)
        return {"cleaner": "own:f"}

    return use


def test_own_cleaner_comes_after_mending_and_before_the_filters(cleaner):
    seen = []
    settings = cleaner(lambda text: seen.append(text) or text.replace("secret", ""))
    found, account = clean("a\r\nsecret", **settings)
    assert (seen, found) == (["a\nsecret"], "a\n")
    assert account.changed["changed by the cleaner"] == 1
    assert clean("secret", **settings)[1].skipped == {"empty": 1}
    assert clean("\r\nsecret!", clean=False, **settings)[0] == "\r\n!"


def test_own_cleaner_drops_fails_or_returns_something_else(cleaner):
    assert clean("a", **cleaner(lambda text: None))[1].skipped == {"dropped by the cleaner": 1}
    assert clean("a", **cleaner(lambda text: "\ud800"))[0] == "\ufffd"
    with pytest.raises(DataError, match=r"--cleaner own:f failed on 'a.txt': ZeroDivisionError"):
        clean("a", **cleaner(lambda text: 1 / 0))
    with pytest.raises(DataError, match=r"--cleaner own:f returned list for 'a.txt'"):
        clean("a", **cleaner(lambda text: [text]))


def test_the_cleaner_is_found_by_name(monkeypatch):
    monkeypatch.setattr(cleaning, "load_function", lambda spec, flag: SimpleNamespace(f=str.upper).f)
    cleaning._cleaner.cache_clear()
    assert clean("words", cleaner="own:f")[0] == "WORDS"
    cleaning._cleaner.cache_clear()


def test_token_ids_are_given_back():
    document = Document("a.npz#0", "", ids=np.arange(3))
    assert clean_document(document, Source(path="x", min_characters=9), Account()) is document


def test_nothing_to_do_gives_the_document_itself():
    document = Document("a.go", "package a\n", "code")
    assert clean_document(document, Source(path="x"), Account()) is document


_PIECES = (
    *("a", "b", " ", "\n", "\n\n", "\r", "\t", "é", "Ã©", "Ã", "©", "â€", "œ", "\x80", "\x9d", "\x07", "\x1b[3", "1m", "\x0c"),
    *(
        "\u200b",
        "\ufeff",
        "\ud83d",
        "\ude00",
        "`",
        "``",
        "```\n",
        "~~~\n",
        "[",
        "](u)",
        "![",
        "<!--",
        "-->",
        "<",
        ">",
        "> ",
        "- ",
    ),
    *("    ", "[a]: u\n", "[a]", "---\n", "k: v\n", "|", "\\", "<img src=x>", "<pre>", "</pre>", "{", "}", "# ", "\0", "\x85"),
)


@pytest.mark.parametrize("kind", ["text", "code", "markdown"])
def test_cleaning_what_is_clean_changes_nothing(kind: str):
    rng = random.Random(7)
    changed = 0
    for _ in range(500):
        text = "".join(rng.choice(_PIECES) for _ in range(rng.randrange(1, 30)))
        once, _ = clean(text, kind, path_header=True, name="a.py")
        if once is not None:
            changed += once != text
            assert clean(once, kind, path_header=True, name="a.py")[0] == once, repr(text)
            once.encode()
    assert changed > 100


@pytest.mark.parametrize(
    ("name", "text", "headed"),
    [
        ("pkg/a.go", "package a\n", "// pkg/a.go\npackage a\n"),
        (
            "a.py",
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx\n",
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# a.py\nx\n",
        ),
        ("a.sh", "#!/bin/sh", "#!/bin/sh\n# a.sh\n"),
        ("a.rs", "#![allow(x)]\nfn f() {}\n", "// a.rs\n#![allow(x)]\nfn f() {}\n"),
        ("a.php", "<?php\necho 1;\n", "<?php\n// a.php\necho 1;\n"),
        ("a.php", "<html><?php echo 1 ?>", "<html><?php echo 1 ?>"),
        ("a.xml", '<?xml version="1.0"?>\n<a/>\n', '<?xml version="1.0"?>\n<!-- a.xml -->\n<a/>\n'),
        ("a.html", "<!DOCTYPE html>\n<p>\n", "<!DOCTYPE html>\n<!-- a.html -->\n<p>\n"),
        ("a.css", "p {}\n", "/* a.css */\np {}\n"),
        ("x/Dockerfile", "# syntax=docker/dockerfile:1\nFROM a\n", "# syntax=docker/dockerfile:1\n# x/Dockerfile\nFROM a\n"),
        ("A.SQL", "select 1", "-- A.SQL\nselect 1"),
        ("*/x.css", "p {}\n", "p {}\n"),
        ("bad\nname\x1b.py", "x\n", "# bad\ufffdname\ufffd.py\nx\n"),
        ("data.bin", "x\n", "x\n"),
        ("noname", "x\n", "x\n"),
    ],
)
def test_path_header(name: str, text: str, headed: str):
    assert with_path(text, name) == headed
    assert with_path(headed, name) == headed


def test_the_path_comes_after_the_filters_and_on_code_only():
    assert clean("x\n", "code", "a.py", path_header=True)[0] == "# a.py\nx\n"
    assert clean("x\n", "text", "a.py", path_header=True)[0] == "x\n"
    assert clean("\n", "code", "a.py", path_header=True)[0] is None
    assert clean("x\n", "code", "a.py", path_header=True, clean=False)[0] == "# a.py\nx\n"


_ROW = re.compile(r"^\| (text|markdown|code) \| `('.*')` \| `('.*')` \|$", re.MULTILINE)
EXAMPLES = _ROW.findall((ROOT / "docs" / "how-to" / "cleaning.md").read_text(encoding="utf-8"))


def test_the_page_has_examples():
    assert len(EXAMPLES) == 10


@pytest.mark.parametrize(("kind", "before", "after"), EXAMPLES)
def test_examples_of_the_page(kind: str, before: str, after: str):
    assert clean(ast.literal_eval(before), kind)[0] == ast.literal_eval(after)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("markdown", "<!-- " * 100_000),
        ("markdown", "<div " * 50_000),
        ("markdown", '{"a":' * 60_000),
        ("text", "<|a|> " * 100_000 + "x"),
        ("text", "\x1b]a" * 100_000),
        ("code", "/*" + "a*/ x /*" * 100_000),
        ("text", f"*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\n{' ' * 50_000}x\n"),
        ("text", "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\n" + "-----\n\n" * 20_000),
    ],
)
def test_text_made_to_be_slow_is_not(kind: str, text: str):
    """Each takes minutes where time grows with the square of the length."""
    start = time.process_time()
    clean(text, kind, max_line_characters=10**9, format="gutenberg" if kind == "text" else "auto")
    assert time.process_time() - start < 5
