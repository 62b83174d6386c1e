"""What a person sees, and the copy of it in run.log."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.runtime.launch import in_notebook, rank

if TYPE_CHECKING:
    from rich.console import Console

#: The library's logger; its messages go to the terminal and to run.log.
logger = logging.getLogger("llmforge")

#: Terminal escapes and other control characters, which text from a corpus may carry.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without anything that could move a cursor or change a terminal."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


class _Terminal(logging.Handler):
    """Writes through tqdm, so that a progress bar is not torn."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging() -> None:
    """Send the library's messages to the terminal, from rank 0 only; calling it again changes nothing."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if rank() == 0 and not any(isinstance(handler, _Terminal) for handler in logger.handlers):
        terminal = _Terminal()
        terminal.setFormatter(_LevelFormatter())
        logger.addHandler(terminal)
    # peft asks transformers by an old name, which is no business of the user's.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


class _LevelFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


def close_bars() -> None:
    """Leave the bars of a training that was cut short as they stand, so that what is said next begins a line of its own.

    In a notebook a bar is no line, and may be the user's own.
    """
    from tqdm import tqdm

    if in_notebook():
        return

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def add_log_file(path: Path) -> logging.Handler | None:
    """Copy messages into `path` from now on, with the time; returns the handler to remove at the end."""
    if rank() != 0:
        return None
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("llmforge", "transformers"):
        logging.getLogger(name).addHandler(handler)
    return handler


def remove_log_file(handler: logging.Handler | None) -> None:
    """Undo `add_log_file`."""
    if handler is not None:
        for name in ("llmforge", "transformers"):
            logging.getLogger(name).removeHandler(handler)
        handler.close()


def console() -> Console:
    """A terminal for tables, silent in every rank but 0."""
    from rich.console import Console

    return Console(quiet=rank() != 0, soft_wrap=False)


def show(renderable: Any, aside: bool = False) -> None:
    """Print a rich table, or text as it is, and put its plain form into run.log.

    Args:
        renderable: The table or text.
        aside: On standard error, where standard output is for a file.
    """
    from rich.console import Console

    # To be copied: neither broken where the terminal ends, nor read for rich's own [markup].
    as_it_is = {"soft_wrap": True, "markup": False, "highlight": False, "emoji": False}
    plain: dict[str, Any] = as_it_is if isinstance(renderable, str) else {}
    (Console(stderr=True, quiet=rank() != 0) if aside else console()).print(renderable, **plain)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            Console(file=handler.stream, force_jupyter=False, width=100, color_system=None).print(renderable, **plain)
