"""Markdown without what only a browser makes use of: front matter, comments, images, addresses of links.

Where code is, and what is a link or a comment, markdown-it-py says, a parser that follows CommonMark;
nothing here guesses at it. Code comes out byte for byte: after a text is changed it is parsed again,
and if any code in it is not as it was, the text is given back unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

#: For each line of a running text: where it begins there, where in the whole text, and how long it is.
Places = Sequence[tuple[int, int, int]]
#: A longer document is left as it is: it is no page that a person wrote, and parsing takes a second a megabyte.
_MOST = 5_000_000
#: A removed link may uncover another: ``[[a](b)](c)``. Deeper than this nobody writes.
_ROUNDS = 8

_FRONT = re.compile(
    r"---[ \t]*\n(?P<yaml>(?:[^\n]*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)|\+\+\+[ \t]*\n(?:[^\n]*\n)*?\+\+\+[ \t]*(?:\n|\Z)"
)
# A line of YAML at the outermost level: a key, an item, a comment, a closing bracket; or a deeper or a blank one.
_YAML = re.compile(r"""(?:["']?[\w.$@/-]+["']?[ \t]*:(?:[ \t].*)?|-(?:[ \t].*)?|#.*|[\]}].*|[ \t]+.*|)\n""")
_FRONT_MOST = 64 * 1024
_PICTURE = re.compile(r"<(?:img|source)\b[^<>]*>|</?picture\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
# HTML whose content is to be taken as it stands.
_VERBATIM = re.compile(r"\s*<(?:pre|script|style|textarea|code)\b", re.IGNORECASE)
_BLANK = re.compile(r"[ \t>]*\n?")
# What is left of a line when its content went: quote marks, a bullet, the signs of a heading.
_EMPTIED = re.compile(r"[ \t>]*(?:[-*+]|\d+[.)]|#{1,6})?[ \t]*\n?")
# Stand for what went, until lines are put together; no text holds them, as they are no characters.
_REMOVED, _BLOCK_REMOVED = "\udc00", "\udc01"
_SIGNS = re.compile("[\udc00\udc01]+")


def clean_markdown(text: str, keep_front_matter: bool = False) -> tuple[str, list[str]]:
    r"""`text` without front matter, HTML comments, images and the addresses of links.

    ``[text](url)`` and ``[text][label]`` become ``text``, ``[label]: url`` goes, ``<https://…>`` and bare addresses
    stay; lines that this empties go with the blank lines they leave.

    Args:
        text: A document with ``\n`` line ends.
        keep_front_matter: Whether front matter stays, as it is.

    Returns:
        The text, and what was done to it.
    """
    body = front_matter_end(text)
    cleaned = _clean(text[body:])
    done = ["front matter dropped"] if body and not keep_front_matter else []
    if cleaned != text[body:]:
        done.append("comments, images and link addresses removed")
    if body and not keep_front_matter:
        cleaned = cleaned.lstrip("\n")
    if done and front_matter_end(cleaned):
        cleaned = f"\n{cleaned}"  # what came to the top only looks like it
    return text[:body] + cleaned if keep_front_matter else cleaned, done


def front_matter_end(text: str) -> int:
    """Where the text begins behind YAML (``---``), TOML (``+++``) or JSON front matter; 0 where it has none.

    A thematic break that a text happens to begin with is none: what follows must look like keys and values.
    """
    if text.startswith("{"):
        try:
            values, stop = json.JSONDecoder().raw_decode(text[:_FRONT_MOST])
        except (ValueError, RecursionError):
            return 0
        line_end = re.compile(r"[ \t]*(?:\n|\Z)").match(text, stop)
        return line_end.end() if isinstance(values, dict) and values and line_end else 0
    found = _FRONT.match(text, 0, _FRONT_MOST)
    if found is None:
        return 0
    yaml = found["yaml"]
    if yaml is not None and not all(_YAML.fullmatch(line) for line in yaml.splitlines(keepends=True)):
        return 0
    return found.end()


def code_spans(text: str) -> list[tuple[int, int]]:
    """Where the code of `text` is, fenced, indented, within a line or in ``<pre>``: start and stop of each, in order.

    Args:
        text: A document with ``\\n`` line ends and no NUL.
    """
    parsed = _Parsed(text)
    found = [
        parsed.span(token)
        for token in parsed.tokens
        if token.type in ("fence", "code_block") or (token.type == "html_block" and _VERBATIM.match(token.content))
    ]
    for token, places in parsed.inlines():
        for child in token.children or ():
            if child.type == "code_inline":
                found += _ranges(places, *child.meta["span"]) if places else [parsed.span(token)]
    return sorted(set(found))


def _clean(text: str) -> str:
    if not any(sign in text for sign in "[<") or len(text) > _MOST or _REMOVED in text or _BLOCK_REMOVED in text:
        return text
    first = last = _Parsed(text)
    for _ in range(_ROUNDS):
        cleaned = _without(last.text, _removals(last))
        if cleaned == last.text:
            break
        last = _Parsed(cleaned)
        if last.code() != first.code():
            return text
    return last.text


class _Parsed:
    """A text, the tokens of its blocks, and where in the text they are."""

    def __init__(self, text: str):
        self.text = text
        self.lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        self.starts = [0, *accumulate(map(len, self.lines))]
        environment: dict[str, Any] = {}
        self.tokens: list[Token] = _parser().parse(text, environment)
        labelled = [*environment.get("references", {}).items()]
        labelled += [(item["label"], item) for item in environment.get("duplicate_refs", ())]
        # "[^1]: word" is a footnote to most renderers.
        self.definitions = [self._lines(*item["map"]) for label, item in labelled if not label.startswith("^")]

    def span(self, token: Token) -> tuple[int, int]:
        """Start and stop of the lines of `token`."""
        return self._lines(*(token.map or (0, 0)))

    def _lines(self, start: int, stop: int) -> tuple[int, int]:
        last = len(self.lines)
        return self.starts[min(start, last)], self.starts[min(stop, last)]

    def code(self) -> list[str]:
        """Every piece of code as it stands: whole lines of blocks, the content of what is within a line."""
        found = []
        for token in self.tokens:
            if token.type in ("fence", "code_block"):
                start, stop = self.span(token)
                found.append(self.text[start:stop])
            found += [child.content for child in token.children or () if child.type == "code_inline"]
        return found

    def inlines(self) -> Iterator[tuple[Token, Places]]:
        """Each piece of running text, with where its lines are in the text; nowhere if that is not sure."""
        reached: dict[int, int] = {}  # cells of a table share a line
        for before, token in pairwise(self.tokens):
            if token.type == "inline" and token.map is not None and token.children:
                cell = before.type in ("th_open", "td_open")
                yield token, self._places(token.content, token.map[0], cell, reached)

    def _places(self, content: str, number: int, cell: bool, reached: dict[int, int]) -> Places:
        """The parser takes indentation, quote marks and the like from the front of lines: find what it left."""
        places = []
        start = 0
        for line in content.split("\n"):
            bare = line.strip()
            source = self.lines[number] if number < len(self.lines) else ""
            if cell or not source.rstrip().endswith(bare):
                column = source.find(bare, reached.get(number, 0))
            else:
                column = len(source.rstrip()) - len(bare)
            if column < 0:
                return []
            reached[number] = column + len(bare)
            places.append((start + line.find(bare), self.starts[number] + column, len(bare)))
            start += len(line) + 1
            number += 1
        return places


def _ranges(places: Places, start: int, stop: int) -> list[tuple[int, int]]:
    """Where characters `start` to `stop` of a running text are in the whole one: a range a line."""
    found = []
    for content, place, length in places:
        first, last = max(start, content), min(stop, content + length)
        if first < last:
            found.append((place + first - content, place + last - content))
    return found


def _removals(parsed: _Parsed) -> list[tuple[int, int, str]]:
    """Start, stop and sign of all that goes, in order."""
    found = [(start, stop - parsed.text[start:stop].endswith("\n"), _BLOCK_REMOVED) for start, stop in parsed.definitions]
    for token in parsed.tokens:
        if token.type == "html_block" and not _VERBATIM.match(token.content):
            found += _html_removals(parsed.text, *parsed.span(token))
    for token, places in parsed.inlines():
        for child in token.children or ():
            for start, stop in _inline_removals(child):
                found += [(*place, _REMOVED) for place in _ranges(places, start, stop)]
    return sorted(found)


def _inline_removals(token: Token) -> list[tuple[int, int]]:
    if token.type == "link_open" and "span" in token.meta:
        start, stop = token.meta["span"]
        label = token.meta["label"]
        return [(start, start + 1), (label, stop)] if label > start + 1 else [(start, stop)]
    if token.type == "image" or (
        token.type == "html_inline" and (token.content.startswith("<!--") or _PICTURE.fullmatch(token.content))
    ):
        return [token.meta["span"]]
    return []


def _html_removals(text: str, start: int, stop: int) -> list[tuple[int, int, str]]:
    comments, words, done = [], [], start
    while (begin := text.find("<!--", done, stop)) >= 0 and (end := text.find("-->", begin + 2, stop)) >= 0:
        words.append(text[done:begin])
        done = end + 3
        comments.append((begin, done))
    rest = _TAG.sub("", "".join([*words, text[done:stop]]))
    pictures = [match.span() for match in _PICTURE.finditer(text, start, stop)]
    if pictures and not rest.strip(" \t\n>"):
        return [(start, stop - text[start:stop].endswith("\n"), _BLOCK_REMOVED)]
    return [(*span, _BLOCK_REMOVED) for span in [*comments, *pictures]]


def _without(text: str, removals: Sequence[tuple[int, int, str]]) -> str:
    """`text` without `removals`, without the lines that they empty and without the blank lines that those leave."""
    pieces, done = [], 0
    for start, stop, sign in removals:
        if start >= done:  # else within one that went already, as an image within a link without words
            pieces += [text[done:start], sign]
            done = stop
    out: list[str] = []
    left = after_block = False
    for line in re.findall(r"[^\n]*\n|[^\n]+", "".join([*pieces, text[done:]])):
        signed = _SIGNS.search(line) is not None
        block = _BLOCK_REMOVED in line
        line = _tidied(line) if signed else line
        if signed and _EMPTIED.fullmatch(line):
            left, after_block = True, after_block or block
            continue
        blank = _BLANK.fullmatch(line) is not None
        if left and blank and (not out or _BLANK.fullmatch(out[-1])):
            continue  # there is a blank line before what went, or nothing at all
        if left and after_block and not blank and out and not _BLANK.fullmatch(out[-1]):
            out.append("\n")  # it parted two blocks
        left = after_block = False
        out.append(line)
    while left and out and _BLANK.fullmatch(out[-1]):
        out.pop()
    return "".join(out)


def _tidied(line: str) -> str:
    """A line without the signs, and with one space where something went between two."""
    line = re.sub(rf"(?<=[ \t]){_SIGNS.pattern}[ \t]+|^{_SIGNS.pattern}[ \t]+", "", line)
    line = re.sub(rf"[ \t]+{_SIGNS.pattern}(?=\n|\Z)", "", line)
    return _SIGNS.sub("", line)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    """CommonMark with tables; comments, links, images and code within a line know where they are."""
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import backtick, html_inline, image, link

    parser = MarkdownIt("commonmark").enable("table")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    for name, rule, kind in (
        ("backticks", backtick, "code_inline"),
        ("html_inline", html_inline, "html_inline"),
        ("image", image, "image"),
        ("link", link, "link_open"),
    ):
        parser.inline.ruler.at(name, _placed(rule, kind))
    return parser


def _placed(rule: Callable[[StateInline, bool], bool], kind: str) -> Callable[[StateInline, bool], bool]:
    """`rule`, leaving with its token from where to where in the running text it reached."""

    def placed(state: StateInline, silent: bool) -> bool:
        start, before = state.pos, len(state.tokens)
        if not rule(state, silent):
            return False
        token = next((token for token in state.tokens[before:] if token.type == kind), None)
        if token is not None and not silent and not state.src.startswith("[^", start):  # a footnote, which is text
            token.meta["span"] = (start, state.pos)
            if kind == "link_open":
                token.meta["label"] = state.md.helpers.parseLinkLabel(state, start, True)
        return True

    return placed
