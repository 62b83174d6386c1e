"""Project Gutenberg's books without what Project Gutenberg put around them.

The markers changed over fifty years: ``*** START OF THIS PROJECT GUTENBERG EBOOK … ***``, the same
without spaces or with a title over several lines, and before 2003 the small print, which ends in
``*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*``. A text without any is left alone.
What is not surely Project Gutenberg's or a transcriber's is the book's, and stays.
"""

from __future__ import annotations

import re

_NAME = r"(?:the\s+|this\s+)?project\s+gutenberg"
_START = re.compile(rf"\s*\*\s?\*\s?\*\s*START\s+OF\s+{_NAME}(?:'s)?\s+E-?(?:BOOK|TEXT)", re.IGNORECASE)
_END = re.compile(rf"\s*\*\s?\*\s?\*\s*END\s+OF\s+{_NAME}(?:'s)?\s+E-?(?:BOOK|TEXT)", re.IGNORECASE)
_SMALL_PRINT_END = re.compile(r"\s*\*+\s*END\s*\*?\s*(?:OF\s+)?THE\s+SMALL\s+PRINT!?.*", re.IGNORECASE)
# "End of Project Gutenberg's Emma", "End of the Project Gutenberg Etext of Emma", "The end of …"
_END_LINE = re.compile(rf"\s*(?:\*{{1,3}}\s*)?(?:this\s+is\s+)?(?:the\s+)?end\s+of\s+{_NAME}\b", re.IGNORECASE)
#: Lines that a header or a closing licence may have: the longest known have about 400 and 500.
_MOST_LINES = 1000
_MARKER_LINES = 6

# Who made the file, as the first words after the header say; and where else it is to be had.
_CREDIT = re.compile(
    r"""[\s\[*_]*(?:
      (?:e-?text\s|e-?book\s|html\s\w*\s?|text\sfile\s|project\sgutenberg\s\w+\s)?
        (?:produced|prepared|transcribed|scanned|typed|digitized|digitised|proofed|proofread|created)
        (?:,?\s(?:and\s)?(?:scanned|proofed|proofread|transcribed|prepared|produced|typed|edited))*
        \s(?:from\s[^\n]{1,80}\s|for\sproject\sgutenberg\s)?by\s
      | this\s(?:e-?text|e-?book|file)\s(?:was\s)?(?:prepared|produced|created|scanned|transcribed|typed)\b
      | (?:note|html\sversion):?\s+project\sgutenberg\s(?:also\s)?has
      | note:?\s+images\sof\sthe\soriginal\spages\sare\savailable
      | images\sof\sthe\soriginal\spages\sare\savailable
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_CREDIT_LINES = 12
_NOTE = re.compile(
    r"[\s\[|+*_=#~-]*transcribers?\s?['’`´]?\s?s?['’]?\s+(?:end\s?)?notes?[*_=#~|\s]*(?:[:.;,—-]|$)", re.IGNORECASE
)
# Such a line and nothing else, or a note that begins in it.
_TITLE = re.compile(r"\W*transcriber\W*s?\W*\s(?:end\s?)?notes?(?:\W*|\W*:.*)", re.IGNORECASE)
_WORDS = re.compile(r"\w")
_BOX = re.compile(r"\s*[|+].*[|+]\s*|\s*[-=*+_~#|][-=*+_~#|\s]*")
_BORDER = re.compile(r"\s*(?:[-=*+_~#|]\s*){4,}")
# A heading of the book that may stand behind a note.
_HEADING = re.compile(
    r"\s*(?:(?:chapter|book|part|volume|act|canto|letter)\s+[\divxlc]+\b|footnotes?\b:?\s*$|index\b|contents\b|appendix\b|the\s+end\b|finis\b)",
    re.IGNORECASE,
)
_NOTE_LINES = 60
_HEAD_LINES = 80
_TAIL_LINES = 240


def strip_gutenberg(text: str) -> tuple[str, list[str]]:
    """A book's own words.

    Args:
        text: The file, with any line ends.

    Returns:
        The text without header, credits, licence and transcriber's notes, and which of "header", "licence" and
        "transcriber's notes" were there; the text as it was and nothing where no marker is found.
    """
    lines = text.split("\n")
    start = _header_end(lines)
    stop = _licence_start(lines, start)
    if start == 0 and stop == len(lines):
        return text, []
    removed = (["header"] if start else []) + (["licence"] if stop < len(lines) else [])
    kept, notes = _without_notes(_without_credits(lines[start:stop]))
    while kept and not kept[0].strip():
        del kept[0]
    while kept and not kept[-1].strip():
        del kept[-1]
    return "\n".join([*kept, ""]) if kept else "", removed + (["transcriber's notes"] if notes else [])


def removals(removed: list[str]) -> list[str]:
    """What an account says of a book that `strip_gutenberg` removed `removed` from."""
    names = {"header": "Gutenberg header removed", "licence": "Gutenberg licence removed"}
    return [names.get(what, f"{what} removed") for what in removed] or ["no Gutenberg markers found"]


def _header_end(lines: list[str]) -> int:
    """The line that the book begins with, 0 without a marker."""
    found = 0
    for number, line in enumerate(lines[:_MOST_LINES]):
        if _START.match(line):
            if found:
                break  # a collection: the second book's
            found = _marker_end(lines, number)
        elif _END.match(line):
            break
        elif _SMALL_PRINT_END.fullmatch(line):
            found = number + 1
    return found


def _marker_end(lines: list[str], number: int) -> int:
    """The line after a marker, whose title may go on until ``***``."""
    for after, line in enumerate(lines[number : number + _MARKER_LINES]):
        if line.rstrip().endswith("***") and (after or line.strip().strip("*").strip()):
            return number + after + 1
        if after and not line.strip():
            break
    return number + 1


def _licence_start(lines: list[str], start: int) -> int:
    """The line that the licence begins with, all lines' number without a marker."""
    stop = len(lines)
    for number in range(len(lines) - 1, max(start, len(lines) - _MOST_LINES) - 1, -1):
        if _END.match(lines[number]):
            stop = number
            break
    marked = stop < len(lines)
    # The sentence before the marker; in older files it is the marker, and little comes after it but more licence.
    for number in range(stop - 1, max(start, stop - (12 if marked else _MOST_LINES)) - 1, -1):
        if _END_LINE.match(lines[number]):
            after = lines[number + 1 : stop]
            words = sum(1 for line in after if line.strip())
            if words <= 4 or (not marked and re.search(r"project\s+gutenberg", "\n".join(after), re.IGNORECASE)):
                return number
            break
    return stop


def _paragraph(lines: list[str], place: int) -> tuple[int, int]:
    """Where the next run of lines that are not blank begins and ends."""
    while place < len(lines) and not lines[place].strip():
        place += 1
    stop = place
    while stop < len(lines) and lines[stop].strip():
        stop += 1
    return place, stop


def _without_credits(lines: list[str]) -> list[str]:
    """`lines` without the first paragraphs that say who made the file, and a note between them left in."""
    notes: list[str] = []
    place = 0
    while True:
        start, stop = _paragraph(lines, place)
        if stop > start and stop - start <= _CREDIT_LINES and _CREDIT.match("\n".join(lines[start : start + 2])):
            place = stop
        elif end := _note_end(lines, start):
            notes += ["", *lines[start:end], "", ""]  # parted from what follows as it was
            place = end
        else:
            return notes + lines[place:]


def _without_notes(lines: list[str]) -> tuple[list[str], int]:
    """`lines` without transcriber's notes, and how many those were."""
    kept: list[str] = []
    notes = place = done = 0
    while place < len(lines):
        start, stop = _paragraph(lines, place)
        end = _note_end(lines, start)
        if end:
            kept += lines[done:start]
            done = end
            notes += 1
        place = end or stop
    return kept + lines[done:], notes


def _note_end(lines: list[str], start: int) -> int:
    """The line after the note that begins at `start`; 0 where there is none, or its end is not sure.

    A note in brackets ends at its bracket and a boxed one at its border, wherever they stand. One with neither is
    known only at the head, where it is one section, and at the tail, where nothing follows.
    """
    title = start
    while title < min(len(lines), start + 4) and (
        _BORDER.fullmatch(lines[title]) or (title > start and not lines[title].strip())
    ):
        title += 1  # a box may begin with its border
    if title >= len(lines) or title > start + 3 or not _NOTE.match(lines[title]):
        return 0
    limit = min(len(lines), title + _NOTE_LINES)
    first = lines[title].lstrip()[0]
    if first == "[":
        return _bracket_end(lines, title, limit)
    if first in "|+":
        while title < limit and _BOX.fullmatch(lines[title]):
            title += 1
        return title
    blank = 0
    for number in range(title + 1, limit):
        line = lines[number]
        blank = 0 if line.strip() else blank + 1
        if title > start and _BORDER.fullmatch(line) and set(line.split()[0]) == set(lines[start].split()[0]):
            return number + 1
        if _HEADING.match(line):
            return 0
        if blank == 2 and _WORDS.search("".join(lines[title + 1 : number])):
            if start < min(_HEAD_LINES, len(lines) // 2):
                return number
            break
    tail = lines[title + 1 :]
    if not _TITLE.fullmatch(lines[title]) or len(tail) > _TAIL_LINES or any(_HEADING.match(line) for line in tail):
        return 0
    return len(lines)


def _bracket_end(lines: list[str], title: int, limit: int) -> int:
    depth = 0
    for number in range(title, limit):
        depth += lines[number].count("[") - lines[number].count("]")
        if depth <= 0:
            # Words behind the bracket are the book's.
            return number + 1 if lines[number].rstrip("*_ \t\r").endswith("]") else 0
    return 0
