"""A terminal that has not all characters: what stands for the others, each as wide as the one it stands for."""

from __future__ import annotations

import codecs
import os
from typing import TextIO

from rich.cells import cell_len

_NAME = "llmforge.nearest"
_NEAREST = str.maketrans("…°·—–→▶✓✗●━╸╺─│┤┼├╭╮╰╯┌┐└┘│’“”", '. ---->+xo=---|+++++++++++|\'""')
_BRAILLE = 0x2800
#: Bits of a braille character's dots, from the top row to the bottom one.
_ROWS = (0x01 | 0x08, 0x02 | 0x10, 0x04 | 0x20, 0x40 | 0x80)
#: Terminals that print UTF-8 and have no glyphs for braille.
_BARE = ("linux",)


def fit(stream: TextIO) -> None:
    """Make `stream` write what is nearest to a character that its encoding, or its terminal, does not have."""
    codecs.register_error(_NAME, _replace)
    bare = os.environ.get("TERM") in _BARE and stream.isatty()
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_NAME, **{"encoding": "ascii"} if bare else {})


def nearest(character: str) -> str:
    """ASCII for one character, as many columns wide."""
    if 0 <= ord(character) - _BRAILLE < 256:
        return _dots(ord(character) - _BRAILLE)
    text = character.translate(_NEAREST)
    return text if text.isascii() else "?" * cell_len(character)


def _dots(bits: int) -> str:
    """A character that has its ink about where a braille one has."""
    rows = [number for number, mask in enumerate(_ROWS) if bits & mask]
    if not rows:
        return " "
    if len(rows) >= 3:
        return "|"
    if len(rows) == 2 and rows[1] - rows[0] > 1:
        return ":"
    return "'" if rows[-1] == 0 else "-" if rows[-1] <= 2 else "."


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(nearest, error.object[error.start : error.end])), error.end
