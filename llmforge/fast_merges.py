"""The merges of a byte-level BPE by gigatoken, several times as fast, where they are the ones of `BpeTrainer`.

gigatoken finds the merges in the same order, ties included, but goes on where `BpeTrainer` stops: it knows no least
frequency, and counts otherwise where two merges make the same token. So its list is taken only where it was not
stopped at all: it is as long as was asked for, no token comes up twice, and every merge was made often enough. Besides,
both are run on a sample of the very text, and have to agree there.

It prints while it trains and keeps its memory: it runs in a process of its own, ``python -m llmforge.fast_merges``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

#: Stands between the texts in a file: a byte that UTF-8 never has.
SEPARATOR = b"\xff"
#: Text below which starting a process takes longer than it saves.
LEAST_BYTES = 4_000_000
_SAMPLE_BYTES, _SAMPLE_MERGES = 500_000, 1_500
_READ_BYTES = 8_000_000

_SURROGATES = re.compile("[\ud800-\udfff]")
#: Characters that Unicode 17 made letters or digits: gigatoken 0.10 knows that version, tokenizers 0.23 version 16, and
#: they cut words at them in different places. First a quick class around them all, then the class itself.
NEAR_NEW_LETTERS = re.compile("[\u088f\u0c5c\u0cdc\ua7ce-\ua7f1\U00010940-\U0001e6ff\U0002b73a-\U0002cead\U000323b0-\U00033479]")
NEW_LETTERS = re.compile(
    "[\u088f\u0c5c\u0cdc\ua7ce\ua7cf\ua7d2\ua7d4\ua7f1\U00010940-\U00010959\U00010ec5-\U00010ec7"
    "\U00011db0-\U00011ddb\U00011de0-\U00011de9\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3\U00016ff2-\U00016ff6"
    "\U000187f8-\U000187ff\U00018d09-\U00018d1e\U00018d80-\U00018df2\U0001e6c0-\U0001e6ff\U0002b73a-\U0002b73f"
    "\U0002cea2-\U0002cead\U000323b0-\U00033479]"
)


def has_new_letters(text: str) -> bool:
    """Whether gigatoken and `tokenizers` may cut `text` into different words."""
    return not text.isascii() and NEAR_NEW_LETTERS.search(text) is not None and NEW_LETTERS.search(text) is not None


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate, which has no bytes."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file in which they stand one after the other, each followed by `SEPARATOR`."""
    with open(path, "rb") as file:
        for texts in _batches(file):
            for text in texts:
                yield text.decode()


def fast_merges(path: Path, count: int, min_frequency: int) -> list[tuple[str, str]] | None:
    """The first `count` merges for the texts in `path`, in the byte alphabet; None where `BpeTrainer` has to find them.

    Args:
        path: UTF-8 texts, each followed by `SEPARATOR`; none of them `has_new_letters`.
        count: How many are asked for.
        min_frequency: How often a pair must occur to be merged.
    """
    sample = path.with_name(path.name + ".sample")
    _write_sample(path, sample)
    few = min(count, _SAMPLE_MERGES)
    ours, theirs = _train(sample, few), _train_slowly(sample, few, min_frequency)
    if ours is None or ours[0][: len(theirs)] != theirs:
        return None
    trained = _train(path, count)
    if trained is None:
        return None
    merges, made = trained
    tokens = {left + right for left, right in merges}
    whole = len(merges) == len(tokens) == count and not tokens & set(pre_tokenizers.ByteLevel.alphabet())
    return merges if whole and min(made) >= min_frequency else None


def _write_sample(path: Path, sample: Path) -> None:
    """Some texts of `path`, evenly spread, each of a few thousand bytes at most."""
    every = max(path.stat().st_size // _SAMPLE_BYTES, 1)
    with open(sample, "wb") as file:
        for number, text in enumerate(read_texts(path)):
            most = max(len(text) // every, 200)
            file.write(text[number % 7 * 10 :][:most].encode() + SEPARATOR)


def _train_slowly(path: Path, count: int, min_frequency: int) -> list[tuple[str, str]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=count + len(alphabet), min_frequency=min_frequency, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(read_texts(path), trainer)
    return [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]


def _train(path: Path, count: int) -> tuple[list[tuple[str, str]], list[int]] | None:
    """gigatoken's merges and how often each was made; None where it breaks or is not there."""
    target = path.with_name(path.name + ".json")
    command = [sys.executable, "-m", __name__, str(path), str(target), str(count)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return [(left, right) for left, right in found["merges"]], found["made"]


def _batches(file: BinaryIO) -> Iterator[list[bytes]]:
    rest = b""
    while block := file.read(_READ_BYTES):
        *texts, rest = (rest + block).split(SEPARATOR)
        yield texts


def _byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte, as in GPT-2: its own where it can be seen, else one from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def _times_made(path: Path, merges: list[tuple[str, str]]) -> list[int]:
    """How often each merge was made: its token in the text as it ends up, and inside of every later token."""
    import gigatoken

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(left + right for left, right in merges)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder = gigatoken.Tokenizer.from_json(backend.to_str())
    counts = np.zeros(len(tokens), dtype=np.int64)
    with open(path, "rb") as file:
        for texts in _batches(file):
            counts += np.bincount(np.asarray(encoder.encode_batch(texts).layout.content.data), minlength=len(tokens))
    totals = counts.tolist()
    for left, right in reversed(merges):
        times = totals[vocabulary[left + right]]
        totals[vocabulary[left]] += times
        totals[vocabulary[right]] += times
    return [totals[vocabulary[left + right]] for left, right in merges]


def main(source: str, target: str, count: str) -> None:
    """Train on the texts in `source` and write the merges to `target`."""
    import gigatoken

    alphabet = _byte_alphabet()
    path = Path(source)
    _, found = gigatoken.train_bpe(path, int(count) + len(alphabet), [], separator=SEPARATOR)
    merges = [("".join(alphabet[byte] for byte in left), "".join(alphabet[byte] for byte in right)) for left, right in found]
    Path(target).write_text(json.dumps({"merges": merges, "made": _times_made(path, merges)}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
