"""Blocks that many documents share are found, shown and, if asked for, trimmed; nothing else is."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmforge.data.boilerplate import block_hashes, common_blocks, find_block, trim

GO = "// Copyright {} The Go Authors. All rights reserved.\n// Use of this source code is governed by a BSD-style\n// license.\n"
C = "/*\n * Copyright {} Someone\n\n * Licensed under a licence; you may not use this\n\n * file except so.\n */\n"


def common(texts: list[str], kind: str) -> dict[int, int]:
    return common_blocks(np.concatenate([block_hashes(text, kind) for text in texts]), len(texts))


@pytest.mark.parametrize(
    ("header", "before"),
    [
        (GO, ""),
        (C, ""),
        (GO.replace("//", "#"), "#!/bin/sh\n"),
        (GO.replace("//", "#"), "# -*- coding: utf-8 -*-\n\n"),
        (GO.replace("//", "--"), ""),
        (GO, "//go:build linux && some_other_very_long_tag && !windows\n\n"),
        (GO, "#pragma once\n"),
        (f'"""\n{GO.replace("// ", "")}"""\n', ""),
        (f"<!--\n{GO.replace('// ', '')}-->\n", "<!DOCTYPE html>\n"),
        (GO, "<?php\n"),
    ],
)
def test_a_licence_header_is_found_shown_and_trimmed(header: str, before: str):
    """Whatever its year and whoever's it is."""
    code = [
        f"package p{number}\n\n// f{number} does one thing and does it well, as all that is long should.\n"
        for number in range(20)
    ]
    owners = [f"{2000 + number} {'ABCDEFGHIJKLMNOPQRST'[number]}nna" for number in range(20)]
    texts = [f"{before}{header.format(owner)}\n{body}" for owner, body in zip(owners, code, strict=True)]
    found = common(texts, "code")
    assert list(found.values()) == [20]
    block = next(iter(found))
    assert find_block(texts[3], block, "code") == header.format(owners[3]).strip("\n")
    for text, body in zip(texts, code, strict=True):
        assert trim(text, found, "code") == before + body


def test_other_code_is_no_block():
    text = (
        'package p\n\nimport (\n\t"some/long/package/name"\n\t"another/long/package/name"\n)\n\n#include <a_long_header_name.h>\n'
    )
    assert block_hashes(text, "code").size == 0
    assert block_hashes(text, "text").size > 0
    build = "//go:build some_long_tag && another_long_tag && a_third_one\n// +build some_long_tag,another_long_tag,third_one\n"
    assert block_hashes(build, "code").size == 0


def test_a_comment_with_code_behind_it_is_not_cut():
    text = "/* a comment of quite some length, surely longer than forty */ int x; /* y */\n/* z */\n"
    assert trim(text, set(block_hashes(text, "code").tolist()), "code") == text


def test_comment_after_code_has_begun_stays():
    text = f"package p\n\n{GO.format(2001)}\nfunc f() {{}}\n"
    assert block_hashes(text, "code").size == 0


def test_paragraphs_at_both_ends_of_a_text():
    notice = "This page was printed from the handbook; see the handbook for more."
    footer = "Questions go to the editors, who answer them on Mondays: page {}."
    texts = []
    for number in range(15):
        body = "\n\n".join(
            f"Document {number} " + "abcdefghij"[line] * 50 + str(number) + "klmnopqrst"[number % 10] * (number + 1)
            for line in range(10)
        )
        texts.append(f"{notice}\n\n{body}\n\n{footer.format(number)}\n")
    found = common(texts, "text")
    assert sorted(found.values()) == [15, 15]
    assert trim(texts[0], found) == texts[0].removeprefix(f"{notice}\n\n").removesuffix(f"{footer.format(0)}\n")


def test_short_blocks_are_left():
    assert block_hashes("Chapter one\n\nShort.\n\n" + "-" * 200 + "\n\n" + "1 2 3 " * 100).size == 0


def test_hashes_are_the_same_in_every_process():
    """They are stored, and compared with those of later runs."""
    assert block_hashes("The quick brown fox jumps over the lazy dog, twice.\n").tolist() == [5899057737409214238]
    assert block_hashes("the QUICK brown fox\njumps, over the lazy 12 dog   twice").tolist() == [5899057737409214238]
    hashes = block_hashes(
        "\n\n".join(f"Paragraph {'abcdefgh'[n]} has its own words and more than forty letters." for n in range(8))
    )
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == sorted(set(hashes.tolist()))
    assert block_hashes("").size == 0
    assert block_hashes("\ud800 is no character, yet forty letters stand around it here.").size == 1


def test_what_is_common():
    """Ten documents at least, and a share of them; a block counts once a document."""
    block = np.array([5], dtype=np.uint64)
    assert common_blocks(np.repeat(block, 9), 9) == {}
    assert common_blocks(np.repeat(block, 10), 10) == {5: 10}
    assert common_blocks(np.repeat(block, 49), 10_000) == {}
    assert common_blocks(np.repeat(block, 50), 10_000) == {5: 50}
    assert list(common_blocks(np.repeat(np.array([1, 2], dtype=np.uint64), [10, 20]), 30).items()) == [(2, 20), (1, 10)]
    assert common_blocks(np.array([], dtype=np.uint64), 0) == {}
    twice = f"{GO.format(1)}\n{GO.format(2)}"
    assert block_hashes(twice, "code").size == 1
    assert trim(twice, set(block_hashes(twice, "code").tolist()), "code") == ""


@pytest.mark.parametrize("kind", ["text", "code"])
def test_trim_takes_whole_blocks_and_keeps_every_other_line_in_order(kind: str):
    rng = random.Random(2)
    lines = [
        GO.format(1),
        C.format(2),
        "x = 1\n",
        "\n",
        "\n",
        "  \n",
        "# short\n",
        "#!/bin/sh\n",
        "Words of prose, and quite a few of them, in one line.\n",
        "/* open\n",
    ]
    trimmed = 0
    for _ in range(400):
        text = "".join(rng.choice(lines) for _ in range(rng.randrange(1, 25)))
        hashes = block_hashes(text, kind).tolist()
        blocks = set(rng.sample(hashes, rng.randrange(len(hashes) + 1)))
        left = trim(text, blocks, kind)
        assert trim(text, set(), kind) == text
        rest = iter(text.splitlines(keepends=True))
        assert all(line in rest for line in left.splitlines(keepends=True))
        gone = sum(len(line) for line in text.split()) - sum(len(line) for line in left.split())
        blocks_there = [find_block(text, block, kind) for block in blocks]
        assert all(blocks_there)
        assert (gone > 0) == bool(blocks)
        trimmed += bool(blocks)
    assert trimmed > 100
