"""How the monitor writes: one row that is cut at its end, and a colour for each level."""

from __future__ import annotations

from rich.text import Text

#: Of the levels of a verdict; nothing is told by the colour alone.
COLOURS = {"good": "green", "watch": "dark_orange", "bad": "bold red", "unknown": "dim"}


def one_row(*parts: str | tuple[str, str]) -> Text:
    """A line that is cut where there is no more room; a part may have a style."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def flat(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())
