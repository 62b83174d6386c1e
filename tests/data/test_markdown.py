"""Code comes out byte for byte, whatever stands around it; comments, images and addresses go."""

from __future__ import annotations

import random
import re

import pytest
from markdown_it import MarkdownIt

from llmforge.data.markdown import clean_markdown, code_spans, front_matter_end


def clean(text: str) -> str:
    found = clean_markdown(text)[0]
    assert clean_markdown(found)[0] == found
    return found


def code_of(text: str) -> tuple[list[str], list[str]]:
    """Whole lines of code blocks, and content of code within lines, by a parser of the test's own."""
    lines = text.split("\n")
    blocks, inline = [], []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("fence", "code_block"):
            blocks.append("\n".join(lines[slice(*token.map)]))
        inline += [child.content for child in token.children or () if child.type == "code_inline"]
    return blocks, inline


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("See [the docs](https://a.b/c?utm=1 'Title').\n", "See the docs.\n"),
        (
            "See [the docs][1], [this][] and [that].\n\n[1]: http://a\n[this]: <http://b> 'T'\n[that]:\n  http://c\n",
            "See the docs, this and that.\n",
        ),
        ("Run [`kind`](u) or [a *b*](u).\n", "Run `kind` or a *b*.\n"),
        ("[![badge](i.svg)](u) [![two](i.svg)](u)\n\n# Name\n", "# Name\n"),
        ("# Name ![logo](l.png)\n\n![](picture.png)\n\nText.\n", "# Name\n\nText.\n"),
        ("# ![logo](l.png)\n\nText.\n", "Text.\n"),
        ("- ![x](y)\n- [a](b)\n- c\n", "- a\n- c\n"),
        ("One line\n![x](y)\nand its end.\n", "One line\nand its end.\n"),
        ("a ![x](y) b and c [d](e) f\n", "a b and c d f\n"),
        ("[two\nlines](u\n'title') end\n", "two\nlines\nend\n"),
        ("> quoted [a](b)\n> ![x](y)\n> end\n", "> quoted a\n> end\n"),
        ("| [a](b) | c |\n|---|---|\n| `x\\|y` | ![i](j) [d](e) |\n", "| a | c |\n|---|---|\n| `x\\|y` | d |\n"),
        ("| `a | [x](y)` |\n|---|---|\n", "| `a | x` |\n|---|---|\n"),
        ("[[a](b)](c)\n", "a\n"),
        ("<!-- one\n\ntwo -->\n\nText <!-- three --> here.<!-- four -->\n", "Text here.\n"),
        ("a\n<!-- b -->\nc\n", "a\n\nc\n"),
        ("a\n\n<!-- b -->\n\n<!-- c -->\n\nd\n", "a\n\nd\n"),
        ("<p align='center'>\n  <a href='u'><img src='x'></a>\n</p>\n\n# Name\n", "# Name\n"),
        ("<div><img src='x'> words <!-- c --></div>\n", "<div> words </div>\n"),
        ("Text.\n\n[a]: u\n\n\n", "Text.\n"),
        ("\n\n\nText\n\n\n\nmore\n", "\n\n\nText\n\n\n\nmore\n"),
    ],
)
def test_noise_goes(text: str, cleaned: str):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "<https://a.b> and https://a.b/c stay\n",
        "- [x] done\n- [ ] not\n",
        "a[0] = b[i](c\n",
        r"\[not a link\](u) and \![a] and `[code](u)` and ``<!-- ` -->``" + "\n",
        "A note[^1].\n\n[^1]: Word\n[^2]: Two words\n",
        "unclosed <!-- comment\n\nand [more\n",
        "<pre>\n<!-- stays -->\n[a](b)\n</pre>\n",
        "<a name='here'></a>\n\n<kbd>x</kbd> 1 < 2\n",
        "no newline at the end",
        "",
        "\n",
    ],
)
def test_what_is_none_stays(text: str):
    assert clean_markdown(text) == (text, [])


@pytest.mark.parametrize(
    "fence",
    [
        "```md\n[a](b) ![c](d) <!-- e -->\n\n\n\n[f]: g\n```",
        "~~~\n```\n[a](b)\n```\n~~~",
        "````\n```\n<!-- a -->\n```\n````",
        "   ```\n   [a](b)\n ```",
        "- item\n\n  ```sh\n  [a](b)\n\n  <!-- c -->\n  ```",
        "> ```\n> [a](b)\n>\n> <!-- c -->\n> ```",
        "1. x\n   > ~~~~\n   > ![c](d)\n   > ~~~~",
        "    [a](b)\n\n    <!-- indented -->",
        "\t[a](b) tab",
        "```\ntrailing spaces   \n\t\n\n```",
        "```[a](b)\ninfo string\n```",
        "```\nunclosed [a](b)\n<!--\n\n\n",
    ],
)
def test_code_blocks_come_out_byte_for_byte(fence: str):
    text = f"---\ntitle: x\n---\n\nSee [a](b). <!-- c -->\n\n![d](e)\n\n{fence}\n"
    found = clean(text)
    assert found == f"See a.\n\n{fence}\n"
    assert code_of(found)[0] == code_of(text.partition("---\n\n")[2])[0] != []


@pytest.mark.parametrize(
    "text",
    [
        "<!-- a -->```\nnot [a](b) code\n",  # without the comment a fence would open
        "[    x](u)\n\n    code [a](b)\n",
        "x [a` b](u) ` c\n",
    ],
)
def test_a_text_whose_code_would_change_is_left_alone(text: str):
    assert code_of(clean(text)) == code_of(text)


_PIECES = (
    *(
        "```",
        "````",
        "~~~",
        "`",
        "``",
        "\n",
        "\n",
        "\n\n",
        "    ",
        "  ",
        "> ",
        "- ",
        "1. ",
        "# ",
        "word",
        "word ",
        "[a](b)",
        "[c]",
    ),
    *(
        "[c]: d\n",
        "![e](f)",
        "[![g](h)](i)",
        "<!-- j -->",
        "<!--",
        "-->",
        "<img src='k'>",
        "<div>",
        "</div>",
        "<pre>",
        "|",
        "---",
    ),
    *("\t", "\\", "[", "]", "(", ")", "!", "é"),
)


def test_code_of_any_text_comes_out_byte_for_byte():
    rng = random.Random(5)
    changed = with_code = 0
    for _ in range(500):
        text = "".join(rng.choice(_PIECES) for _ in range(rng.randrange(2, 40)))
        found, _ = clean_markdown(text)
        body = text[front_matter_end(text) :]
        assert code_of(found) == code_of(body), repr(text)
        changed += found != text
        with_code += found != text and code_of(text) != ([], [])
    assert changed > 200
    assert with_code > 100


def test_fences_of_a_page_that_has_everything():
    rng = random.Random(3)
    for _ in range(30):
        parts = []
        for number in range(12):
            mark = rng.choice(["```", "````", "~~~", "~~~~~"])
            indent = rng.choice(["", "", " ", "   "])
            body = "\n".join(rng.choice(["[a](b)", "", "# <!-- c -->", "![d](e)", "[f]: g", "``", "\tx  "]) for _ in range(5))
            parts.append(f"{indent}{mark}lang{number}\n{body}\n{indent}{mark}\n")
            parts.append(rng.choice(["\n", "\nSee [h](i) and `[j](k)`.\n\n", "<!-- l -->\n", "\n![m](n)\n\n", "[o]: p\n\n"]))
        text = "".join(parts)
        found = clean(text)
        assert code_of(found) == code_of(text)
        assert len(code_of(found)[0]) >= 12 - text.count("<!-- l")


@pytest.mark.parametrize(
    "front",
    [
        "---\ntitle: a\ntags: [b, c]\nmenu:\n  main:\n    x: 1\nlist:\n- a\n# comment\n\ndescription: |-\n  [a](b)\n---\n",
        "---\n---\n",
        "---\ntitle: x\n...\n",
        '---\n"quoted": x\n--- \n',
        '+++\ntitle = "a"\n[menu]\n+++\n',
        '{\n "title": "a",\n "b": {"c": 1}\n}\n',
    ],
)
def test_front_matter(front: str):
    text = f"{front}\n# Title\n"
    assert clean_markdown(text) == ("# Title\n", ["front matter dropped"])
    assert clean_markdown(text, keep_front_matter=True) == (text, [])
    assert front_matter_end(text) == len(front)


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nA text that begins with a rule.\n\n---\n\nMore.\n",
        "--- \nJust words\n---\n",
        "----\ntitle: x\n----\n",
        "text\n---\ntitle: x\n---\n",
        "---\ntitle: never closed\n",
        "{{< shortcode >}}\n",
        "{}\n",
        '{"a": 1} and words\n',
        "[1, 2]\n",
        "+++\nnever closed\n",
    ],
)
def test_what_only_looks_like_front_matter_stays(text: str):
    assert front_matter_end(text) == 0


@pytest.mark.parametrize("text", ["---\na: b\n---\n\n---\nc: d\n---\n", "<!-- x -->\n---\nc: d\n---\n"])
def test_only_what_stood_at_the_top_is_front_matter(text: str):
    assert clean(text) == "\n---\nc: d\n---\n"


def test_code_spans_are_where_the_code_is():
    text = "# `a` é\n\n> x ``b ` c`` y\n\n```\nd\n```\n\n`e` | `e`\n---|---\n\n    f\n"
    assert [text[start:stop] for start, stop in code_spans(text)] == [
        "`a`",
        "``b ` c``",
        "```\nd\n```\n",
        "`e`",
        "`e`",
        "    f\n",
    ]


def test_what_was_done_is_said():
    assert clean_markdown("---\na: b\n---\n[c](d)\n")[1] == [
        "front matter dropped",
        "comments, images and link addresses removed",
    ]


def test_every_word_outside_comments_images_and_addresses_stays():
    words = re.findall(r"\w+", clean("A [b c](http://no) d [e][no], f.\n\n[no]: http://no\n\n<!-- no -->\n\n- g\n\n> h\n"))
    assert words == list("Abcdefgh")
