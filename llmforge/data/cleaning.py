"""What is done to one document between reading it and using it: mended, stripped, filtered.

By default only what is surely no part of a text goes, and code is hardly touched. Everything done and
every document dropped is counted in the account, so that nothing vanishes without a trace.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.functions import load_function
from llmforge.data.generated import is_generated
from llmforge.data.gutenberg import removals, strip_gutenberg
from llmforge.data.markdown import clean_markdown, code_spans
from llmforge.data.mending import encodable, mend, suspicious
from llmforge.data.path_header import with_path
from llmforge.errors import DataError

# Nothing but end-of-text and padding signs, as other tools' data sets have them.
_SPECIAL = re.compile(
    r"(?:\s*(?:<\|[\w ]{1,40}\|>|</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>|\[(?:PAD|UNK|BOS|EOS|MASK|CLS|SEP)\]))+\s*", re.I
)
_ASCII_PLAIN = bytes(code for code in range(128) if chr(code).isalnum() or chr(code).isspace())
# How sections and paragraphs are named, which were cut from a book without its header.
_PIECE = re.compile(r"[#@]\d+$")


def clean_document(document: Document, source: Source, account: Account) -> Document | None:
    """`document` as `source` wants it, or None where it is dropped; both are entered in `account`.

    In this order: line ends, control characters and mojibake are mended; Gutenberg's header or Markdown's front
    matter, comments and link addresses removed; `source.cleaner` called; filters applied; the path put before code.
    Without `source.clean` only the last, the user's cleaner and the drop of empty texts are left. Cleaning what is
    clean changes nothing, as far as the user's cleaner has it so. Documents that hold token ids are given back.

    Raises:
        DataError: `source.cleaner` fails, or returns something that is no text.
        ConfigError: `source.cleaner` names no function.
    """
    if document.ids is not None:
        return document
    text = document.text
    if source.clean:
        text = _mended(document, source, account)
    if source.cleaner is not None:
        own = _by_cleaner(text, source.cleaner, document.name)
        if own is None:
            account.skip("dropped by the cleaner", document.name)
            return None
        if own != text:
            account.changed["changed by the cleaner"] += 1
        text = own
    text, replaced = encodable(text)  # no file could hold it
    if replaced:
        account.changed["lone surrogates replaced"] += 1
    reason = why_dropped(text, document, source)
    if reason is not None:
        account.skip(reason, document.name)
        return None
    if source.path_header and document.kind == "code":
        headed = with_path(text, document.name)
        if headed != text:
            account.changed["path put in front"] += 1
        text = headed
    return document if text == document.text else dataclasses.replace(document, text=text)


def _mended(document: Document, source: Source, account: Account) -> str:
    if document.kind == "markdown":
        text, done = _mended_markdown(document.text, source.front_matter == "keep")
    else:
        text, done = mend(document.text, prose=document.kind == "text")
    if source.format == "gutenberg":
        text, removed = strip_gutenberg(text)
        if removed or not _PIECE.search(document.name):
            done += removals(removed)
    account.changed.update(set(done))
    return text


def _mended_markdown(text: str, keep_front_matter: bool) -> tuple[str, list[str]]:
    text, done = mend(text, prose=True, code=code_spans)
    while True:
        cleaned, removed = clean_markdown(text, keep_front_matter)
        done += removed
        if cleaned == text or not suspicious(cleaned):
            return cleaned, done
        # What went may have stood between the halves of something to mend.
        text, more = mend(cleaned, prose=True, code=code_spans)
        done += more
        if text == cleaned:
            return text, done


def why_dropped(text: str, document: Document, source: Source) -> str | None:
    """The first reason for which `source` does not want `text`, or None.

    Args:
        text: The document's text, cleaned.
        document: Where it is from.
        source: Its source.
    """
    if not text or text.isspace():
        return "empty"
    if not source.clean:
        return None
    if len(text) < source.min_characters:
        return "too short"
    if source.max_characters is not None and len(text) > source.max_characters:
        return "too long"
    if _SPECIAL.fullmatch(text):
        return "only special tokens"
    if _has_line_over(text, source.max_line_characters):
        return "a line too long"
    if source.max_symbol_ratio is not None and symbol_ratio(text) > source.max_symbol_ratio:
        return "too many symbols"
    if document.kind == "code" and not source.keep_generated:
        return is_generated(text, document.name)
    return None


def _has_line_over(text: str, limit: int) -> bool:
    """Leaps from line end to line end, as far as a line may reach."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def symbol_ratio(text: str) -> float:
    """Share of the characters that are no letter, digit or space; marks that are part of a letter count as letters."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_PLAIN)) / max(1, len(text))
    counts = Counter(text)
    return sum(count for character, count in counts.items() if _is_symbol(character)) / len(text)


@lru_cache(maxsize=4096)
def _is_symbol(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character)[0] not in "LMN"


def _by_cleaner(text: str, spec: str, name: str) -> str | None:
    try:
        own = _cleaner(spec)(text)
    except Exception as error:
        raise DataError(f"--cleaner {spec} failed on {name!r}: {type(error).__name__}: {error}.", "Mend the function.") from error
    if own is not None and not isinstance(own, str):
        raise DataError(f"--cleaner {spec} returned {type(own).__name__} for {name!r}.", "Return a text, or None to drop it.")
    return own


@lru_cache(maxsize=8)
def _cleaner(spec: str) -> Callable[[str], object]:
    return load_function(spec, "--cleaner")
