"""Findings on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from llmforge.diagnosis.findings import Finding
from llmforge.runtime.logs import printable

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}
_LEVEL, _SUBJECT = 9, 11
#: Narrower terminals get the text below its subject.
_NARROW = 64
_MARK = " *"


class Screen:
    """Writes findings to standard output as they come, and to a terminal's last line what is being done."""

    def __init__(self) -> None:
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._console: Any = None
        if self.width is not None:
            with contextlib.suppress(ImportError):  # it is such a machine, too, that is looked at
                from rich.console import Console

                self._console = Console(soft_wrap=True, highlight=False)

    def doing(self, what: str) -> None:
        """Say what comes next, on a terminal only."""
        if self._live:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{f'trying {printable(what)} …'[:room]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take away what `doing` wrote."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def add(self, finding: Finding) -> None:
        """Write one finding."""
        self.clear()
        for number, line in enumerate(lines_of(finding, self.width)):
            self._print(line, finding.level if number == 0 else "")

    def end(self, findings: Sequence[Finding], seconds: float) -> None:
        """Write what it all comes to, unless training will not work, which the error says."""
        self.clear()
        if any(finding.simulated for finding in findings):
            self._print(f"{_MARK.strip()} this check was tried on simulated machines only")
        warnings = sum(finding.level == "warning" for finding in findings)
        if not any(finding.level == "failure" for finding in findings):
            told = f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else ""
            self._print(f"Training will work here{told}. ({seconds:.0f} s)")

    def _print(self, line: str, level: str = "") -> None:
        if self._console is None:
            print(line, flush=True)
            return
        from rich.text import Text

        text = Text(line)
        if level:
            text.stylize(_STYLES[level], 0, len(level))
        self._console.print(text, soft_wrap=True)


def lines_of(finding: Finding, width: int | None) -> Iterator[str]:
    """The lines of one finding; each part whole on its own line where `width` is None.

    The first begins with the level and the subject, and a line that begins with an arrow is the remedy.
    """
    text = printable(finding.text) + (_MARK if finding.simulated else "")
    head = f"{finding.level:<{_LEVEL}}{finding.subject:<{_SUBJECT}}"
    narrow = width is not None and width < _NARROW
    indent = " " * (2 if narrow else len(head))
    if narrow:
        yield head.rstrip()
    yield from _wrapped(text, indent if narrow else head, indent, width)
    if finding.advice:
        yield from _wrapped(printable(finding.advice), f"{indent}→ ", f"{indent}  ", width)


def _wrapped(text: str, first: str, others: str, width: int | None) -> list[str]:
    if width is None:
        return [f"{first}{text}"]
    # A command or an anchor is copied from the screen: it is not cut.
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def as_json(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """The diagnosis as one object."""
    return {
        "works": not any(finding.level == "failure" for finding in findings),
        "findings": [finding.as_json() for finding in findings],
        "seconds": round(seconds, 1),
    }
