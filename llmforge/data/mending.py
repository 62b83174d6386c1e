"""Characters that no reader was meant to see: control characters, foreign line ends, mojibake.

Every function is pure and returns what it did beside the text, so that all that was mended is
counted. The looks come first and cost next to nothing where nothing is wrong, which is nearly
everywhere; only lines that look mended-worthy meet ftfy, which does about a megabyte a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

#: Ranges of a text that must stay as they are, in order.
Spans = Sequence[tuple[int, int]]

# Colours and cursor moves that were copied from a terminal: the whole sequence goes, or "[31m" would stay.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\))")
_PAGE_BREAK = re.compile(r"\n?[\x0b\x0c]")
_C0 = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_C0_BYTES = bytes(code for code in (*range(32), 127) if code not in (9, 10))
# Zero-width space, word joiner, byte-order mark, directional embeddings, overrides and isolates, C1. Joiners (U+200C,
# U+200D) and direction marks spell words, and stay; so does the zero-width space that parts words in Thai, Lao, Burmese
# and Khmer.
_HIDDEN = re.compile("[\x80-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_DROPPED = re.compile("(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b|[\x80-\x9f\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
# What is no ASCII, with the space that may stand for a no-break space within mojibake.
_FOREIGN = re.compile(r"[^\x00-\x7f]+ ?")


def mend(text: str, prose: bool, code: Callable[[str], Spans] | None = None) -> tuple[str, list[str]]:
    """`text` with its line ends as ``\\n`` and, in prose, without control characters and mojibake.

    Code keeps every character but ``\\r`` and NUL: a form feed parts sections there, and a string may hold anything.
    Mending what is mended changes nothing.

    Args:
        text: A whole document.
        prose: Whether to mend more than line ends and NUL.
        code: Gives the ranges of a text with ``\\n`` line ends that hold code, and are not mended.

    Returns:
        The text, and what was done to it.
    """
    done = []
    text, replaced = encodable(text)
    if replaced:
        done.append("lone surrogates replaced")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        done.append("carriage returns replaced")
    if "\0" in text:
        text = text.replace("\0", "")
        done.append("control characters removed")
    # What is mended may uncover more: "Ã", a control character, "©". The text grows shorter each time but for the last.
    while prose and suspicious(text):
        mended, what = _mend_prose(text, code(text) if code else ())
        if mended == text:
            break
        text = mended
        done += [item for item in what if item not in done]
    return text, done


def encodable(text: str) -> tuple[str, bool]:
    """`text` as UTF-8 can hold it: surrogates joined to the characters they stand for, lone ones replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), True
    return text, False


def suspicious(text: str) -> bool:
    """Whether prose holds anything that `mend` may mend; a look, at hundreds of megabytes a second for ASCII."""
    raw = text.encode()
    if len(raw.translate(None, _C0_BYTES)) != len(raw):
        return True
    if len(raw) == len(text):
        return False
    foreign = "\n".join(_FOREIGN.findall(text))  # in most Latin script a few in a thousand
    return bool(_HIDDEN.search(foreign) or _mojibake().search(foreign))


def _mend_prose(text: str, code: Spans) -> tuple[str, list[str]]:
    pieces, done, start = [], [], 0
    for stop, after in [*code, (len(text), len(text))]:
        piece, what = _mend_piece(text[start:stop])
        pieces += [piece, text[stop:after]]
        done += what
        start = after
    return "".join(pieces), done


def _mend_piece(text: str) -> tuple[str, list[str]]:
    done = []
    plain = _C0.sub("", _PAGE_BREAK.sub("\n", _TERMINAL.sub("", text)))
    repaired = plain if plain.isascii() else _repair(plain)
    if repaired != plain:
        done.append("mojibake mended")
    bare = _DROPPED.sub("", repaired)
    if plain != text or bare != repaired:
        done.append("control characters removed")
    return bare, done


def _repair(text: str) -> str:
    """Each line that holds what looks like UTF-8 read as something else, put through ftfy."""
    import ftfy  # where it is needed only: most corpora are clean

    # Nothing but the encoding; and no character is given up where information was lost.
    config = ftfy.TextFixerConfig(replace_lossy_sequences=False, explain=False)
    pieces, done = [], 0
    while match := _mojibake().search(text, done):
        start = text.rfind("\n", 0, match.start()) + 1
        stop = text.find("\n", match.end())
        stop = len(text) if stop < 0 else stop
        pieces += [text[done:start], ftfy.fix_encoding(text[start:stop], config)]
        done = stop
    return "".join([*pieces, text[done:]])


@lru_cache(maxsize=1)
def _mojibake() -> re.Pattern[str]:
    """UTF-8 sequences as the usual one-byte encodings show them, as ftfy knows them, and C1 control characters."""
    from ftfy.chardata import UTF8_DETECTOR_RE

    return re.compile(f"[\x80-\x9f]|{UTF8_DETECTOR_RE.pattern}", UTF8_DETECTOR_RE.flags)
