"""Copies and near-copies: what is found, what is not, and that it is the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from helpers import SAMPLES

from llmforge.data import shingles
from llmforge.data.dedup import (
    PERMUTATIONS,
    banding,
    find_clusters,
    highest_near,
    signature,
    signatures,
    similarity,
    text_hash,
)
from llmforge.data.shingles import licence_end, text_shingles

HEADER = """\
// Copyright 2026 The Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

"""
FROZEN = (
    "// Copyright 2026 The Authors.\n// Use of this is governed by a licence.\n\n"
    'package main\n\nfunc main() { println("hé, 中文 — “x”") }\n'
)
WORDS = [f"{first}{last}" for first in "bcdfghjklmnp" for last in "aeiou alm ent irk ost und".split()]


def hashes_of(texts) -> np.ndarray:
    return np.frombuffer(b"".join(map(text_hash, texts)), dtype=np.uint64).reshape(-1, 2)


def clusters_of(texts, threshold: float = 0.4, shingle: int = 2) -> list[int]:
    return find_clusters(hashes_of(texts), signatures(texts, shingle), threshold).tolist()


def made_text(source: random.Random, words: int) -> str:
    return " ".join(source.choices(WORDS, k=words))


def words_of(text: str) -> list[str]:
    """The words as `shingles` describes them, cut without numpy."""
    found, last = [], ""
    for character in text:
        size = len(character.encode("utf-8"))
        kind = " " if character <= " " or character == "\x7f" else "."
        if size == 2 or (size == 1 and (character.isalnum() or character == "_")):
            kind = "a"
        if kind == "a" and last == "a":
            found[-1] += character
        elif kind != " ":
            found.append(character)
        last = kind
    return ["".join(c.lower() if c.isascii() else c for c in word) for word in found]


def jaccard(first: str, second: str, size: int) -> float:
    """Of the shingles with their repetitions."""
    sets = []
    for text in (first, second):
        words = words_of(text) + [""] * (size - 1)
        sets.append(Counter(tuple(words[place : place + size]) for place in range(len(words) - size + 1)))
    return (sets[0] & sets[1]).total() / (sets[0] | sets[1]).total()


# --- signatures


def test_hashes_and_signatures_are_frozen():
    """They lie in caches: with a new version of the library they must be the same, or `SIGNATURE_VERSION` rise."""
    assert text_hash(FROZEN).hex() == "c0969263b56dc890714e5d599cd0e791"
    assert (
        text_hash(np.array([1, 2, 3], dtype=np.uint16))
        == hashlib.blake2b(
            bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]), digest_size=16
        ).digest()
    )
    made = signature(FROZEN, 2)
    assert made.dtype == np.uint32
    assert made.shape == (PERMUTATIONS,)
    assert made[:6].tolist() == [234980154, 3274270278, 3189857162, 3254546595, 757869439, 3291047151]
    assert int(made.astype(np.uint64).sum()) == 332280234662
    assert signature(np.array([1, 2, 3]), 3)[:4].tolist() == [3315250738, 3680442413, 3564415468, 3642753974]


def test_another_process_makes_the_same_signatures():
    """String hashes change from process to process; these must not."""
    code = f"from llmforge.data.dedup import *; print(signature({FROZEN!r}, 2).tolist())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == signature(FROZEN, 2).tolist()


def in_worker(text: str) -> list[int]:
    return signatures([text] * 400, 2)[0].tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_workers_that_are_forked_do_not_hang():
    """A pool of threads in the parent would not be there in the child, which would wait for it for ever."""
    text = made_text(random.Random(0), 400)
    expected = in_worker(text)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map_async(in_worker, [text]).get(20) == [expected]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_signatures_estimate_the_jaccard_similarity(size):
    source = random.Random(size)
    errors = []
    for changed in range(0, 100, 5):
        words = source.choices(WORDS, k=100)
        other = [source.choice(WORDS) if place < changed else word for place, word in enumerate(words)]
        first, second = " ".join(words), " ".join(other)
        estimate = similarity(signature(first, size), signature(second, size))
        errors.append(estimate - jaccard(first, second, size))
    # The standard error is below 0.5 / sqrt(128) = 0.044; four of it each, and four of the mean's.
    assert np.abs(errors).max() < 0.18
    assert abs(np.mean(errors)) < 0.04


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Hello,  World!\n", "hello , world !"),
        ("a\tb\r\nc", "a b c"),
        ("naïve café", " naïve  café "),
        ("日本語のテキスト", "日 本 語 の テ キ ス ト"),
        ("“so” — he said", " “ so ” — he  said"),
        ("x😀y", "x 😀 y"),
        ("a" * 9 + "\x00b", "aaaaaaaaa b"),
    ],
)
def test_case_and_white_space_do_not_count(first, second):
    assert np.array_equal(signature(first, 2), signature(second, 2))
    assert words_of(first) == words_of(second)
    assert text_hash(first) != text_hash(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ab", "a b"),
        ("a b", "b a"),
        ("a-b", "a_b"),
        ("é", "è"),
        ("日本", "本日"),
        ("a", "a a"),
        ("", "a"),
        ("a", "b"),
        ("f(x)", "f x"),
    ],
)
def test_other_words_are_other_shingles(first, second):
    found = [set(text_shingles([text], 2)[0].tolist()) for text in (first, second)]
    assert found[0] != found[1]


def test_many_at_once_are_as_one_by_one(monkeypatch):
    source = random.Random(0)
    texts = [
        "",
        " ",
        "one",
        "é",
        "ends in é",
        "日本",
        "\ud800",
        HEADER,
        HEADER + "package x",
        *(made_text(source, n) for n in (2, 50, 9000)),
    ]
    contents = [*texts, np.array([4, 5, 6]), np.array([], dtype=np.uint16)]
    for size in (1, 2, 4):
        expected = np.stack([signature(content, size) for content in contents])
        assert np.array_equal(signatures(contents, size), expected)
    # Batches and pieces of a long text may fall anywhere.
    expected = signatures(contents, 3)
    for piece in (64, 1000):
        monkeypatch.setattr(shingles, "_PIECE", piece)
        monkeypatch.setattr(shingles._Tables, "_made", None)
        assert np.array_equal(signatures(contents, 3), expected)
    assert signatures([], 2).shape == (0, PERMUTATIONS)


def test_one_endless_line_is_read_in_pieces():
    text = "x" * 1_300_000
    assert similarity(signature(text, 2), signature(text[:-1], 2)) > 0.05  # of five shingles one is in both


def test_a_long_document_is_compared_as_a_short_one_is(monkeypatch):
    source = random.Random(0)
    words = source.choices(WORDS, k=20_000)
    other = [source.choice(WORDS) if source.random() < 0.2 else word for word in words]
    first, second = signatures([" ".join(words), " ".join(other)], 2)
    monkeypatch.setattr(shingles, "_PIECE", 10_000)
    monkeypatch.setattr(shingles._Tables, "_made", None)
    pieces = signatures([" ".join(words), " ".join(other)], 2)
    assert np.array_equal(pieces, [first, second])
    assert similarity(first, second) == pytest.approx(jaccard(" ".join(words), " ".join(other), 2), abs=0.15)


def test_edits_count_for_what_they_are_in_a_table_of_few_words():
    """A tenth changed of 12,000 words that are six different ones: as sets of pairs they would share nothing."""
    source = random.Random(0)
    table = ("{ 0x00 , 0x01 , nil } , " * 1500).split()
    changed = [f"new{source.randrange(99_999)}" if source.random() < 0.1 else word for word in table]
    assert similarity(signature(" ".join(table), 2), signature(" ".join(changed), 2)) > 0.5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (HEADER + "package x\n", "package x\n"),
        ("#!/bin/sh\n# SPDX-License-Identifier: MIT\n\nls\n", "ls\n"),
        ("<!-- Copyright 2026 -->\n\n# Title\n", "# Title\n"),
        ("/*\n * Licensed under the Apache License,\n * limitations under the License.\n */\nint x;", "int x;"),
        (HEADER, HEADER.partition("\n")[0]),
        ("package x\n\nx\n// Copyright of others is honoured.\n" + "x\n" * 99, None),
        ("Copyright law is a field of its own.\nIt protects authors.\n", None),
        (
            "// Package net has a licence to dial.\n" + "\n".join(f"x{i} := {i}" for i in range(200)) + "\n// license\nx",
            "x0 := 0",
        ),
        ("", None),
        ("// Copyright", None),
    ],
)
def test_a_licence_header_is_left_out(text, left):
    assert text[licence_end(text) :].lstrip("\n").startswith(text if left is None else left)
    assert licence_end(text) <= 4500


def test_files_with_one_header_are_not_alike_for_it():
    source = random.Random(3)
    first, second = (HEADER + made_text(source, 12) for _ in range(2))
    assert jaccard(first, second, 2) > 0.4
    assert similarity(signature(first, 2), signature(second, 2)) < 0.2
    # Of what is nothing but a header, the header counts.
    assert similarity(signature(HEADER, 2), signature("// Copyright 2026", 2)) < 0.5


# --- clusters


def test_exact_copies_by_hash_alone():
    hashes = hashes_of(["a", "b", "a", "c", "b", "a"])
    assert find_clusters(hashes, None).tolist() == [0, 1, 0, 3, 1, 0]
    assert find_clusters(hashes[:0], None).tolist() == []
    assert find_clusters(hashes[:0], np.zeros((0, PERMUTATIONS), np.uint32), 0.4).tolist() == []


def test_a_cluster_is_what_hangs_together():
    source = random.Random(1)
    parts = [made_text(source, 60) for _ in range(5)]
    chain = [f"{first} {second}" for first, second in itertools.pairwise(parts)]
    alone = made_text(source, 100)
    # Neighbours share a half of their words: a third of all.
    assert clusters_of([alone, *chain], threshold=0.25) == [0, 1, 1, 1, 1]
    assert clusters_of([alone, *chain], threshold=0.5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.9])
def test_the_order_of_documents_does_not_matter(threshold):
    source = random.Random(2)
    texts = [made_text(source, source.choice([1, 2, 5, 40])) for _ in range(150)]
    texts += [" ".join(word for word in source.choice(texts).split() if source.random() < 0.85) for _ in range(150)]
    ranks = np.array([source.choice([0, 0, 1, 2]) for _ in texts])
    found = clusters_of(texts, threshold)
    near = highest_near(signatures(texts, 2), ranks, threshold)
    order = source.sample(range(len(texts)), len(texts))
    shuffled = clusters_of([texts[place] for place in order], threshold)
    for one, other in itertools.combinations(range(len(order)), 2):
        assert (shuffled[one] == shuffled[other]) == (found[order[one]] == found[order[other]])
    again = highest_near(signatures([texts[place] for place in order], 2), ranks[order], threshold)
    assert np.array_equal(again, near[order])
    assert all(cluster == found.index(cluster) <= place for place, cluster in enumerate(found))
    assert 1 < len(set(found)) < len(texts)


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
def test_pairs_at_the_threshold_are_looked_at(threshold):
    """Longer bands are faster and find less: at any threshold nine in ten of the pairs just there are found."""
    bands, rows = banding(threshold)
    assert bands * rows <= PERMUTATIONS
    source = np.random.RandomState(0)
    pairs = 400
    rows_of = source.randint(0, 2**32, (2 * pairs, PERMUTATIONS), dtype=np.uint32)
    equal = source.rand(pairs, PERMUTATIONS) < threshold
    rows_of[pairs:] = np.where(equal, rows_of[:pairs], rows_of[pairs:])
    there = equal.mean(axis=1) >= threshold
    hashes = source.randint(0, 2**62, (2 * pairs, 2)).astype(np.uint64)
    found = find_clusters(hashes, rows_of, threshold)
    together = found[:pairs] == found[pairs:]
    assert together[there].mean() > 0.9
    assert not together[~there].any()


@pytest.mark.parametrize("kind", ["go", "prose"])
def test_planted_near_duplicates_are_found(kind):
    source = random.Random(4)
    if kind == "go":
        texts = [path.read_text(encoding="utf-8") for path in sorted(SAMPLES.rglob("*.go"))]
        tokens = [split_keeping(text) for text in texts]
    else:
        tokens = [split_keeping(made_text(source, source.randint(60, 300))) for _ in range(60)]
        texts = ["".join(parts) for parts in tokens]
    planted, originals = [], []
    for share in (0.05, 0.1, 0.15, 0.2):
        for number, parts in enumerate(tokens):
            planted.append("".join(edit(parts, share, source)))
            originals.append(number)
    found = clusters_of(texts + planted)
    hits = [found[len(texts) + place] == found[number] for place, number in enumerate(originals)]
    assert len(hits) >= 80
    assert np.mean(hits) >= 0.95


def split_keeping(text: str) -> list[str]:
    """Words, symbols and the white space between them."""
    return [text[start:stop] for start, stop in itertools.pairwise(_borders(text))]


def _borders(text: str) -> list[int]:
    kinds = ["a" if c.isalnum() or c == "_" else " " if c.isspace() else "." for c in text]
    inner = [i for i in range(1, len(text)) if kinds[i] != kinds[i - 1] or kinds[i] == "."]
    return [0, *inner, len(text)]


def edit(parts: list[str], share: float, source: random.Random) -> list[str]:
    """`parts` with that share of the words and symbols substituted, deleted or preceded by another."""
    made: list[str] = []
    for part in parts:
        kind = 3 if part.isspace() or source.random() >= share else source.randrange(3)
        made += ([source.choice(WORDS)], [], [source.choice(WORDS), " ", part], [part])[kind]
    return made


# --- crowds: nothing may take the square of ten thousand


def crowd(kind: str, count: int = 10_000) -> list[str]:
    source = random.Random(0)
    base = made_text(source, 40).split()
    if kind == "nearly alike":
        return [
            " ".join(base[:place] + [f"x{number}"] + base[place:]) for number in range(count) for place in [source.randrange(40)]
        ]
    if kind == "empty":
        return ["", " "] * (count // 2)
    if kind == "one word":
        return [f"word{number}" for number in range(count)]
    return [" ".join(base + source.choices(WORDS, k=60)) for _ in range(count)]  # a shared head, else different


@pytest.mark.parametrize(("kind", "clusters"), [("nearly alike", 1), ("empty", 1), ("one word", 10_000), ("a shared head", None)])
def test_crowds_take_no_time(kind, clusters):
    texts = crowd(kind, 3000 if clusters is None else 10_000)
    rows, hashes = signatures(texts, 2), hashes_of(texts)
    ranks = (np.arange(len(texts)) % 10 == 0).astype(np.int64)
    started = time.process_time()
    found = find_clusters(hashes, rows, 0.4)
    near = highest_near(rows, ranks, 0.4)
    assert time.process_time() - started < 10  # some tenths of a second; all pairs would take minutes
    if clusters is not None:
        assert len(set(found.tolist())) == clusters
        assert near.mean() == pytest.approx(1.0 if clusters == 1 else 0.1)


def test_a_held_out_document_is_found_in_a_crowd():
    """Where a bucket is too full to be looked at whole, the alike meet in another one."""
    texts = crowd("a shared head", 3000)
    source = random.Random(9)
    held_out = [" ".join(word for word in text.split() if source.random() < 0.95) for text in texts[::100]]
    ranks = np.array([0] * len(texts) + [1] * len(held_out))
    near = highest_near(signatures(texts + held_out, 2), ranks, 0.6)
    assert near[: len(texts) : 100].mean() == 1


def test_the_highest_rank_nearby_is_that_of_all_pairs():
    source = np.random.RandomState(0)
    rows = source.randint(0, 2**32, (300, PERMUTATIONS), dtype=np.uint32)
    for place in range(60, 300):  # a copy of another one, some more alike than others
        like = source.rand(PERMUTATIONS) < source.choice([0.2, 0.6, 0.8, 1.0])
        rows[place, like] = rows[source.randint(place), like]
    ranks = source.randint(0, 6, 300)
    near = (rows[:, None] == rows[None]).mean(axis=2) >= 0.5
    expected = np.where(near, ranks, -1).max(axis=1)
    found = highest_near(rows, ranks, 0.5)
    assert (found <= expected).all()
    assert (found == expected).mean() > 0.98
    assert 0.3 < (expected > ranks).mean() < 0.9


def test_similarity_to_a_higher_rank_is_direct():
    source = random.Random(1)
    parts = [made_text(source, 60) for _ in range(4)]
    texts = [f"{first} {second}" for first, second in itertools.pairwise(parts)]
    assert highest_near(signatures(texts, 2), np.array([0, 0, 2]), 0.25).tolist() == [0, 2, 2]
    same = signatures([texts[0], texts[0].upper(), "other"], 2)
    assert highest_near(same, np.array([0, 5, 1]), 0.4).tolist() == [5, 5, 1]
    assert highest_near(same[:0], np.array([], dtype=np.int64), 0.4).tolist() == []
