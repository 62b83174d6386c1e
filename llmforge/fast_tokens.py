"""Text to ids at the speed of a disk: gigatoken where it gives the very ids of `tokenizers`, `tokenizers` elsewhere.

gigatoken encodes a byte-level BPE some twenty times as fast, and refuses most of what it does not know. It is young,
so it is never trusted: awkward strings and samples of the very texts are encoded both ways, and where a single id
differs `tokenizers` does all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmforge.fast_merges import has_new_letters, without_surrogates
from llmforge.runtime.logs import logger
from llmforge.tokenization import TextTokenizer

#: Characters after which gigatoken is loaded anew: what it remembers of the words it met grows without bound, by up
#: to 7 bytes a character of text with ever new words. Loading takes 0.1 s and does not slow real text down.
_RENEW_CHARACTERS = 32_000_000
#: Compared in the first batch and in each later one: documents, evenly spread, and characters of each.
_FIRST_SAMPLE, _LATER_SAMPLE, _SAMPLE_CHARACTERS = 64, 2, 2_000
#: Characters outside a choice of those that no version of NFC changes or joins to their neighbours: the two libraries
#: have normalization tables of different age.
_NFC_MATTERS = re.compile(
    "[^\x00-\u02ff\u0400-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2190-\u22ff\u2500-\u27bf"
    "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fd5\uac00-\ud7a3\uff01-\uff9d\U0001f300-\U0001f64f]"
)
#: What pre-tokenizers and byte alphabets differ in.
_AWKWARD = (
    "",
    " ",
    "a",
    "\x00\x01\x7f\x80\xa0\u00ad\u200b\ufeff\ufffd",
    "I'll we'Ve don't 'tis x's'S ''d",
    "  two   three \t\ttabs\r\n\r\n \n\n\n x \n",
    "\u3000\u2003\u2028x\u2029\x85y\x0b\x0c\x1c\x1f z",
    "12 1234567 ٣٤٥ ⅷ ² 1.5e-10 0x1F",
    "naïve ÅÅ e\u0301 ﬁ ß İ ǅ ʰ 中文字 かな 한국어 עברית हिन्दी",
    "👍🏽👨‍👩‍👧 🇩🇪 \U0010ffff\U000e0001 \u0378",
    "!?... --== <|x|> </a> {{}} __init__ $x @y #z \\n",
    "a" * 300 + " " * 300 + "!" * 300,
)


class Encoder:
    """Encodes batches of texts, fast where that gives the same ids.

    Special tokens that stand in a text are encoded as the plain text they are; a user's own tokens are matched; lone
    surrogates, which have no bytes, are U+FFFD. Not for several threads at once: it has threads of its own.

    Args:
        tokenizer: What to encode with.
        fast: False leaves gigatoken out.

    Attributes:
        dtype: Type of the ids, the smallest unsigned integer that holds them all.
        reason: Why gigatoken is not used; None as long as it is.
    """

    def __init__(self, tokenizer: TextTokenizer, fast: bool = True):
        self._tokenizer = tokenizer
        self.dtype = tokenizer.dtype
        self.reason: str | None = None if fast else "not asked for"
        self._fast: Any = None
        self._seen = 0
        self._compared = False
        #: Texts that hold one of these are left to `tokenizers`.
        self._slow_contents: list[str] = []
        self._normalizes = False
        self._description = ""
        if fast:
            self._prepare()

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all `texts` one after the other, without separators, and how many each has (int64)."""
        texts = [without_surrogates(text) for text in texts]
        if self.reason is None:
            self._compare(texts)
        if self.reason is not None:
            return self._encode_slowly(texts)
        slow = [place for place, text in enumerate(texts) if self._is_slow(text)]
        if not slow:
            return self._encode_fast(texts)
        away = set(slow)
        fast = [place for place in range(len(texts)) if place not in away]
        parts: list[Any] = [None] * len(texts)
        for places, encode in ((slow, self._encode_slowly), (fast, self._encode_fast)):
            ids, lengths = encode([texts[place] for place in places])
            for place, part in zip(places, np.split(ids, np.cumsum(lengths)[:-1]) if places else (), strict=True):
                parts[place] = part
        return np.concatenate(parts), np.array([len(part) for part in parts], dtype=np.int64)

    def _prepare(self) -> None:
        """Load gigatoken, or say why not."""
        description = json.loads(self._tokenizer.backend.to_str())
        own = [added for added in description["added_tokens"] if not added["special"]]
        plain = [added for added in own if not (added["single_word"] or added["lstrip"] or added["rstrip"])]
        splitter = description["pre_tokenizer"] or {}
        if splitter.get("type") == "ByteLevel" and not splitter.get("use_regex", True):
            return self._fall_back("it would cut words where ByteLevel(use_regex=False) does not")
        if description["model"].get("dropout"):
            return self._fall_back("merges are dropped at random")
        self._normalizes = description["normalizer"] is not None
        if self._normalizes and description["normalizer"] != {"type": "NFC"}:
            return self._fall_back("it may normalize in other ways")
        if self._normalizes and not all(added["content"].isascii() for added in own):
            return self._fall_back("added tokens stand beside a normalizer")
        # Special tokens are not matched in texts, so it does not get to know them. A special token's text can hide an
        # own token that overlaps it, though; and tokens that take spaces along are matched by `tokenizers` alone.
        self._slow_contents = [added["content"] for added in description["added_tokens"] if own and added not in plain]
        self._description = json.dumps(
            description | {"added_tokens": plain, "post_processor": None, "truncation": None, "padding": None}
        )
        try:
            import gigatoken  # noqa: F401
        except ImportError as error:
            return self._fall_back(f"gigatoken cannot be imported ({error})")
        contents = [added["content"] for added in description["added_tokens"]]
        awkward = [
            *_AWKWARD,
            *(before + content + after for content in contents for before, after in (("", ""), ("x ", " y"), ("x", content))),
        ]
        self._check(awkward)

    def _compare(self, texts: Sequence[str]) -> None:
        """Encode a sample of `texts` both ways; fall back where they differ."""
        count = min(_LATER_SAMPLE if self._compared else _FIRST_SAMPLE, len(texts))
        self._compared = self._compared or bool(texts)
        places = np.linspace(0, len(texts) - 1, count).round().astype(int).tolist()
        self._check([texts[place][:_SAMPLE_CHARACTERS] for place in places])

    def _is_slow(self, text: str) -> bool:
        """Whether only `tokenizers` is known to get `text` right."""
        if any(content in text for content in self._slow_contents):
            return True
        if text.isascii():
            return False
        if self._normalizes and _NFC_MATTERS.search(text):
            return True
        return has_new_letters(text)

    def _check(self, texts: list[str]) -> None:
        texts = [text for text in texts if not self._is_slow(text)]
        try:
            fast, fast_lengths = self._encode_fast(texts)
        except Exception as error:  # whatever it refuses or breaks with
            return self._fall_back(f"it refuses the tokenizer ({str(error).splitlines()[0]})")
        ids, lengths = self._encode_slowly(texts)
        if not (np.array_equal(lengths, fast_lengths) and np.array_equal(ids, fast)):
            self._fall_back("it gives other ids for a sample of the text")

    def _fall_back(self, reason: str) -> None:
        self.reason = reason
        self._fast = None
        logger.info("tokens: encoding takes the slow way, gigatoken is left out: %s", reason)

    def _encode_fast(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._fast is None or self._seen > _RENEW_CHARACTERS:
            from gigatoken import Tokenizer

            self._fast = None  # the old one's memory is given back before the new one takes its own
            self._fast, self._seen = Tokenizer.from_json(self._description), 0
        self._seen += sum(map(len, texts))
        layout = self._fast.encode_batch(list(texts)).layout
        offsets = np.asarray(layout.offsets.data)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return ids.astype(self.dtype), np.diff(offsets).astype(np.int64)

    def _encode_slowly(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = list(self._tokenizer.encode(texts))
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        return np.concatenate([np.zeros(0, self.dtype), *parts]).astype(self.dtype), lengths
