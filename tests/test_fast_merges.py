"""The fast way to a tokenizer gives `BpeTrainer`'s tokenizer, or is not taken."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from helpers import SAMPLES

from llmforge import fast_merges, tokenization
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.tokenization import train_tokenizer

CODE = [path.read_text(encoding="utf-8") for path in sorted(SAMPLES.rglob("*.go"))]


def made_up(seed: int, words: str, count: int = 150) -> list[str]:
    """Texts full of ties."""
    source = random.Random(seed)
    return ["".join(source.choices(words.split(",") + [" ", "\n", "  "], k=source.randint(0, 300))) for _ in range(count)]


CORPORA = {
    "code": CODE,
    "ties": made_up(0, "ab,ba,abc,cab,aabb,d,e,fg,hij,kl,mnop,qrs"),
    "not ascii": made_up(1, "é,naïve,中文,字,👍🏽,\x00,'s,ß,한국,-,12,x,yz,ab,ba"),
}


IN_ITS_PROCESS = fast_merges._train


def train_here(path, count):
    """`_train` without a process of its own, which takes a second to start."""
    target = path.with_name("found")
    fast_merges.main(str(path), str(target), str(count))
    found = json.loads(target.read_text(encoding="utf-8"))
    return [tuple(pair) for pair in found["merges"]], found["made"]


@pytest.fixture
def ways(monkeypatch):
    """Trains both ways, and says whether the fast one was taken."""
    monkeypatch.setattr(tokenization, "LEAST_BYTES", 0)
    monkeypatch.setattr(fast_merges, "_train", train_here)
    found = []
    monkeypatch.setattr(tokenization, "fast_merges", lambda *args: found.append(fast_merges.fast_merges(*args)) or found[-1])

    def train(texts, **settings) -> bool:
        args = TokenizerArguments(**settings)
        ours = train_tokenizer(texts, args)
        with monkeypatch.context() as patch:
            patch.setattr(tokenization, "fast_merges", lambda *args: None)
            theirs = train_tokenizer(texts, args)
        assert ours.backend.to_str(pretty=True) == theirs.backend.to_str(pretty=True)
        return bool(found) and found[-1] is not None

    return train


@pytest.mark.parametrize("own", [[], ["<user>", "  ", "func", "ab"]], ids=["", "own tokens"])
@pytest.mark.parametrize("name", CORPORA)
def test_the_tokenizer_is_the_same_to_the_byte(ways, name, own):
    assert ways(CORPORA[name], vocab_size=258 + len(own) + (40 if name == "ties" else 90), special_tokens=own)


def test_a_large_vocabulary(ways):
    assert ways(CODE, vocab_size=2500)


@pytest.mark.parametrize("min_frequency", [1, 3])
def test_text_with_too_few_pairs_stops_at_the_same_merge(ways, min_frequency):
    """The fast way does not stop by itself: it is not taken."""
    assert not ways(CORPORA["ties"][:5], vocab_size=5000, min_frequency=min_frequency)


def test_pairs_that_are_too_seldom_end_the_merges(ways):
    """gigatoken reaches this vocabulary, with pairs that occur less often than was asked for."""
    assert ways(CODE, vocab_size=800, min_frequency=2)
    assert not ways(CODE, vocab_size=800, min_frequency=300)


def test_a_token_that_comes_up_twice_does_not_count_twice(ways):
    """Two ways lead to three spaces: four merges make three tokens, and BpeTrainer ends after three."""
    assert not ways(["    a", "    a"], vocab_size=258 + 4)


def test_runs_of_one_letter_and_tokens_that_come_up_twice(ways):
    texts = ["a" * count + " " + "ab" * count for count in (3, 8, 14, 20, 27)]
    for size in (262, 268, 280):
        ways(texts, vocab_size=size, min_frequency=1)


def test_letters_that_are_cut_differently_are_left_to_the_slow_way(ways):
    assert not ways([*CODE, "\U00033091's"], vocab_size=400)


def test_an_own_token_that_looks_like_a_merge(ways):
    """``Ġ`` is how a space is written in the byte alphabet."""
    ways(CODE, vocab_size=500, special_tokens=["Ġreturn", "Ġthe"])


@pytest.mark.parametrize("broken", ["order", "missing"])
def test_other_merges_are_seen_on_a_sample(ways, monkeypatch, broken):
    train = fast_merges._train

    def wrong(path, count):
        merges, made = train(path, count)
        return ([merges[1], merges[0], *merges[2:]], made) if broken == "order" else None

    monkeypatch.setattr(fast_merges, "_train", wrong)
    assert not ways(CODE, vocab_size=400)


def test_without_gigatoken(ways, monkeypatch):
    monkeypatch.setattr(fast_merges, "_train", IN_ITS_PROCESS)
    monkeypatch.setattr(sys, "executable", "false")
    assert not ways(CODE, vocab_size=400)


def test_lone_surrogates_and_texts_of_own_tokens_alone():
    args = TokenizerArguments(vocab_size=300, special_tokens=["<user>"])
    assert len(train_tokenizer(["<user>"], args)) == 259
    tokenizer = train_tokenizer(["a\ud800b" * 40], args)
    assert tokenizer.backend.decode(tokenizer.backend.encode("a\ufffdb").ids) == "a\ufffdb"


def test_nothing_is_printed_while_training(capfd, tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b"".join(text.encode() + fast_merges.SEPARATOR for text in CODE))
    assert fast_merges.fast_merges(path, 50, 2)
    assert capfd.readouterr() == ("", "")


def test_the_process_beside_imports_neither_torch_nor_transformers():
    code = "import sys, llmforge.fast_merges; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
