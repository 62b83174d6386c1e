"""A prompt that is cut into tokens as it was in training.

Training encodes a row part by part, so that no token reaches over from a prompt into its answer, and takes the special tokens
that a chat template writes for what they are. A `Prompt` is the text for people, and remembers both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


class Prompt(str):
    """A text to go on from, with the parts that training encodes one by one.

    Args:
        parts: They make up the text.
        written: Text in which the special tokens stand that a template writes; in a prompt they are matched, and others are
            the plain text they look like.
    """

    parts: tuple[str, ...]
    written: str

    def __new__(cls, parts: Iterable[str], written: str = "") -> Prompt:
        parts = tuple(parts)
        made = super().__new__(cls, "".join(parts))
        made.parts, made.written = parts, written
        return made

    def __deepcopy__(self, memo: Any) -> Prompt:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Prompt, (self.parts, self.written)


def cut_parts(parts: Iterable[str], added: Mapping[str, int], written: str) -> list[list[str | int]]:
    """Each part as plain texts and, between them, the ids of special tokens.

    Args:
        parts: Of a row or a prompt.
        added: The tokenizer's added tokens, text → id.
        written: As in `Prompt`.
    """
    special = {text: index for text, index in added.items() if text and text in written}
    if not special:
        return [[part] if part else [] for part in parts]
    splitter = re.compile(f"({'|'.join(re.escape(text) for text in sorted(special, key=len, reverse=True))})")
    return [[special.get(piece, piece) for piece in splitter.split(part) if piece] for part in parts]
