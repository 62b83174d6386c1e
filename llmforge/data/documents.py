"""The unit of a corpus, and the account of all that was left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

#: Entries that are shown for each reason.
EXAMPLES = 3


@dataclass(frozen=True)
class Document:
    """Never cut by a split, and what a packed row is traced back to.

    Attributes:
        name: Path within the source, with ``:line`` or ``#section`` where a file holds several.
        text: Its text; empty where the source holds token ids.
        kind: What it is, which says how it may be cleaned: code is never repaired.
        group: What must stay in one split, a folder or a book say; empty where the document stands for itself.
        ids: The tokens of a source that holds ids instead of text.
    """

    name: str
    text: str
    kind: Literal["text", "code", "markdown", "plain"] = "text"
    group: str = ""
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class IdRange:
    """What ids of a source of token ids may be: those of the tokenizer they were made with.

    Attributes:
        vocab_size: Ids from here on are impossible.
        separator: Ends documents in a stream of ids.
        pad: Fills up rows of ids.
        tokenizer: Stands for the tokenizer.
    """

    vocab_size: int
    separator: int
    pad: int
    tokenizer: str


@dataclass
class Account:
    """What was read and what was not; accounts of parts add up.

    Attributes:
        files: Files, or members of archives, that gave documents.
        bytes: Bytes of those, unpacked.
        skipped: Reason → how many files, lines or documents were left out for it.
        examples: Reason → the first few of them.
        changed: What was mended → in how many documents.
    """

    files: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, example: str, count: int = 1) -> None:
        """Count something that is left out."""
        self.skipped[reason] += count
        self._show(reason, example)

    def change(self, what: str, example: str) -> None:
        """Count a document that was mended, where one wants to know which."""
        self.changed[what] += 1
        self._show(what, example)

    def _show(self, what: str, example: str) -> None:
        shown = self.examples.setdefault(what, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def add(self, other: Account) -> None:
        """Take over what `other` counted."""
        self.files += other.files
        self.bytes += other.bytes
        self.skipped.update(other.skipped)
        self.changed.update(other.changed)
        for reason, examples in other.examples.items():
            shown = self.examples.setdefault(reason, [])
            shown += examples[: EXAMPLES - len(shown)]

    def as_json(self) -> dict[str, Any]:
        """The account in plain values, for a card or a shard."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "skipped": dict(sorted(self.skipped.items())),
            "examples": dict(sorted(self.examples.items())),
            "changed": dict(sorted(self.changed.items())),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Account:
        """The reverse of `as_json`."""
        return cls(value["files"], value["bytes"], Counter(value["skipped"]), dict(value["examples"]), Counter(value["changed"]))

    def lines(self) -> list[str]:
        """The account for people, a line a fact; empty where everything was taken as it stood."""
        left_out = [
            f"left out {count:,} {'entry' if count == 1 else 'entries'}: {reason} (e.g. {self.examples[reason][0]})"
            for reason, count in sorted(self.skipped.items())
        ]
        return left_out + [mended_line(what, count, self.examples.get(what, [])) for what, count in sorted(self.changed.items())]


def mended_line(what: str, count: int, examples: Sequence[str]) -> str:
    """What was mended, in how many documents, and in which for one."""
    shown = f" (e.g. {examples[0]})" if examples else ""
    return f"{what} in {count:,} document{'' if count == 1 else 's'}{shown}"
