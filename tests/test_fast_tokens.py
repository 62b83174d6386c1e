"""The fast way to ids gives the ids of `tokenizers`, or is not taken."""

from __future__ import annotations

import json
import logging
import random
import sys
import unicodedata

import gigatoken
import numpy as np
import pytest
from helpers import SAMPLES
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from llmforge import fast_merges, fast_tokens
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.fast_tokens import Encoder
from llmforge.tokenization import TextTokenizer, train_tokenizer

CORPUS = "".join(path.read_text(encoding="utf-8") for path in sorted(SAMPLES.rglob("*.go"))[:12])
MIXED = "naïve Straße 中文字 かな 한국어 👍🏽 it's  two\n\n\tthree 1234 ٣٤٥ "
AWKWARD = [
    "",
    "a",
    "\n",
    "\x00",
    "\x00\x01 \x7f\ufeff",
    "👍🏽👨‍👩‍👧🇩🇪",
    "<|endoftext|>",
    "x<|endoftext|><|pad|> y",
    "<|endoftext",
    "e\u0301 é",
    "it's IT'S we'll'd",
    " " * 40 + "x" + "\n" * 9,
    MIXED,
]


@pytest.fixture(
    scope="module", params=[(), ("<user>",), ("<a", "<a>", "a>", "a> b"), ("ab", "bc", "abc"), ("<|end", "text|>x"), (" ",)]
)
def tokenizer(request) -> TextTokenizer:
    return train_tokenizer([CORPUS, MIXED * 20], TokenizerArguments(vocab_size=900, special_tokens=list(request.param)))


@pytest.fixture(scope="module")
def plain() -> TextTokenizer:
    return train_tokenizer([CORPUS, MIXED * 20], TokenizerArguments(vocab_size=900))


def changed(tokenizer: TextTokenizer, **parts) -> TextTokenizer:
    """The tokenizer with some parts of its description replaced."""
    description = json.loads(tokenizer.backend.to_str()) | parts
    return TextTokenizer(Tokenizer.from_str(json.dumps(description)), tokenizer.end_of_text, tokenizer.pad)


def expected(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    """Straight from `tokenizers`, in a tokenizer of its own."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def encoded(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode_batch(texts)
    assert ids.dtype == encoder.dtype
    assert lengths.dtype == np.int64
    assert len(lengths) == len(texts)
    assert len(ids) == lengths.sum()
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []


def fuzz(seed: int, count: int, pieces: list[str]) -> list[str]:
    """Texts of `pieces` and of characters of every category, each as likely as the other."""
    source = random.Random(seed)
    known: dict[str, list[str]] = {}
    for point in (*range(0x3000), *range(0x3000, 0x110000, 37)):
        if not 0xD800 <= point < 0xE000:
            known.setdefault(unicodedata.category(chr(point)), []).append(chr(point))
    categories = sorted(known)

    def piece() -> str:
        return source.choice(pieces) if source.random() < 0.6 else source.choice(known[source.choice(categories)])

    return ["".join(piece() for _ in range(source.randint(0, 12))) for _ in range(count)]


def used(encoder: Encoder) -> bool:
    """Whether the fast way is taken."""
    return encoder.reason is None and encoder._fast is not None


@pytest.mark.parametrize("fast", [True, False])
def test_ids_are_the_ones_of_tokenizers(tokenizer, fast):
    own = [added["content"] for added in json.loads(tokenizer.backend.to_str())["added_tokens"]]
    texts = AWKWARD + [
        before + token + after for token in own for before, after in (("", ""), ("x", "x"), (" ", " "), (token, ""))
    ]
    texts += fuzz(0, 800, [*own, "<|", "|>", "<a", "a>", "b", "c", " ", "  ", "\n", "'s", "1", "\u0301"])
    encoder = Encoder(tokenizer, fast=fast)
    assert encoded(encoder, texts) == expected(tokenizer, texts)
    assert used(encoder) is fast


def test_real_text_in_batches_and_nothing(plain):
    encoder = Encoder(plain)
    texts = [path.read_text(encoding="utf-8") for path in sorted(SAMPLES.rglob("*.go"))]
    wanted = expected(plain, texts)
    assert encoded(encoder, texts) == wanted
    assert [one for start in range(0, len(texts), 7) for one in encoded(encoder, texts[start : start + 7])] == wanted
    assert encoded(encoder, []) == []
    assert encoded(encoder, [""]) == [[]]
    assert used(encoder)


@pytest.mark.parametrize("line", ["x" * 1_000_000, "0123 abcdef" * 90_000], ids=["one word", "words"])
def test_a_line_of_a_megabyte(plain, line):
    encoder = Encoder(plain)
    assert encoded(encoder, [line, "b"]) == expected(plain, [line, "b"])
    assert used(encoder)


@pytest.mark.parametrize("fast", [True, False])
def test_lone_surrogates_are_replaced(plain, fast):
    assert encoded(Encoder(plain, fast), ["a\ud800b", "\udfff\ud83d", "é"]) == expected(plain, ["a\ufffdb", "\ufffd\ufffd", "é"])


def test_letters_that_only_one_of_the_libraries_knows(plain):
    """U+323B0 is a letter from Unicode 17 on."""
    texts = [f"{chr(point)}'s x{chr(point)}1" for point in (0x88F, 0xA7D2, 0x10940, 0x1E6FF, 0x323B0, 0x33479)]
    encoder = Encoder(plain)
    assert encoded(encoder, [*texts, "plain"]) == expected(plain, [*texts, "plain"])
    assert used(encoder)


def cut_differently(points) -> list[int]:
    """The characters around which the two libraries cut words at different places."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def differs(some) -> bool:
        text = "".join(f"a{c}1{c}!{c}'s \n" for c in map(chr, some))
        theirs = [end - start for _, (start, end) in splitter.pre_tokenize_str(text)]
        return theirs != [len(word.decode()) for word in gigatoken.pretokenizer(text.encode())]

    points = [point for point in points if not 0xD800 <= point < 0xE000]
    parts = [points[start : start + 200] for start in range(0, len(points), 200)]
    return [point for part in parts if differs(part) for point in part if differs([point])]


def test_all_characters_that_are_cut_differently_are_known():
    """Assigned after Unicode 13, or not yet, in the planes that get letters; the rest is in the slow test."""
    new = [point for point in range(0x36000) if unicodedata.category(chr(point)) == "Cn"][::9]
    assert [hex(point) for point in cut_differently(new) if not fast_merges.NEW_LETTERS.search(chr(point))] == []


@pytest.mark.slow
def test_all_characters_of_unicode_that_are_cut_differently_are_known():
    found = {chr(point) for point in cut_differently(range(0x110000))}
    assert [char for char in found if not fast_merges.NEW_LETTERS.search(char)] == []
    assert [char for char in found if not fast_merges.NEAR_NEW_LETTERS.search(char)] == []


@pytest.mark.parametrize("own", [(), ("  ", "   ", "<user>")])
def test_nfc_is_taken_fast_only_where_it_changes_nothing(plain, own):
    tokenizer = changed(plain, normalizer={"type": "NFC"})
    tokenizer.backend.add_tokens([AddedToken(content, special=False, normalized=True) for content in own])
    encoder = Encoder(tokenizer)
    pieces = ["e", "\u0301", "é", " ", "  ", "中", "한", "\u1ac0", "\u0316", "\u212b", "“", "–", "а", "👍"]
    texts = [*AWKWARD, *fuzz(1, 800, pieces)]
    assert encoded(encoder, texts) == expected(tokenizer, texts)
    assert used(encoder)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
            "use_regex",
        ),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "refuses"),
        ({"normalizer": {"type": "Lowercase"}}, "normalize"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}, "normalize"),
    ],
)
def test_what_gigatoken_is_not_trusted_with_is_encoded_all_the_same(plain, parts, reason):
    tokenizer = changed(plain, **parts)
    encoder = Encoder(tokenizer)
    assert reason in encoder.reason
    assert encoded(encoder, AWKWARD) == expected(tokenizer, AWKWARD)


def test_added_tokens_that_take_spaces_along_are_matched(plain):
    tokenizer = changed(plain)
    tokenizer.backend.add_tokens(
        [AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True), AddedToken("<w>", single_word=True)]
    )
    tokenizer.backend.add_tokens(["<plain>"])
    texts = [f"{a}{token}{b}" for token in ("<l>", "<r>", "<w>", "<plain>") for a in ("", " ", "x") for b in ("", " ", "x")]
    encoder = Encoder(tokenizer)
    assert encoded(encoder, texts) == expected(tokenizer, texts)
    assert used(encoder)


class Wrong:
    """A gigatoken that is wrong about one word."""

    def __init__(self, real):
        self.real = real

    def encode_batch(self, texts):
        return self.real.encode_batch([text.replace("wrong", "wring") for text in texts])


@pytest.fixture
def wrong(monkeypatch):
    load = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", staticmethod(lambda description: Wrong(load(description))))


@pytest.mark.parametrize("batches", [[["a", "wrong"]], [["a"], ["b", "wrong"]]], ids=["first batch", "later one"])
@pytest.mark.usefixtures("wrong")
def test_a_difference_in_the_texts_is_seen_before_their_ids_are_used(plain, caplog, batches):
    encoder = Encoder(plain)
    assert used(encoder)
    with caplog.at_level(logging.INFO, logger="llmforge"):
        for batch in batches:
            assert encoded(encoder, batch) == expected(plain, batch)
    assert encoder.reason == "it gives other ids for a sample of the text"
    assert len([record for record in caplog.records if "other ids" in record.message]) == 1


def test_without_gigatoken(plain, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with caplog.at_level(logging.INFO, logger="llmforge"):
        encoder = Encoder(plain)
    assert encoded(encoder, AWKWARD) == expected(plain, AWKWARD)
    assert "cannot be imported" in caplog.text


def test_memory_of_words_is_given_back(plain, monkeypatch):
    """gigatoken remembers every word it met: it is loaded anew every so many characters."""
    loads = []
    load = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", staticmethod(lambda text: loads.append(1) or load(text)))
    monkeypatch.setattr(fast_tokens, "_RENEW_CHARACTERS", 5_000)
    encoder = Encoder(plain)
    texts = [CORPUS[start : start + 1000] for start in range(0, 20_000, 1000)]
    assert [one for text in texts for one in encoded(encoder, [text])] == expected(plain, texts)
    assert 3 <= len(loads) <= 12


def test_the_type_holds_the_largest_id(plain):
    """A vocabulary may have holes."""
    assert Encoder(plain).dtype == np.uint16
    vocabulary = {char: place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocabulary | {"<|endoftext|>": 70_000}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder = Encoder(TextTokenizer(backend, 70_000, 70_000))
    assert encoder.dtype == np.uint32
    assert encoded(encoder, ["ab"]) == expected(TextTokenizer(backend, 70_000, 70_000), ["ab"])
