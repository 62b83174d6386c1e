"""A picture of how long the documents of a dataset are."""

from __future__ import annotations

import multiprocessing
import signal as signals
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType

import numpy as np

from llmforge.runtime.children import without_script


class LengthsPicture:
    """Draws the picture in a process of its own, beside the work of the block; a context manager.

    Importing matplotlib and drawing take longer than packing a small corpus, so the process is started before it is
    known what to draw.
    """

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        if "matplotlib.figure" in sys.modules or multiprocessing.current_process().daemon:
            return  # here it takes a moment, or a process may not be started
        context = multiprocessing.get_context("spawn")
        theirs, self._told = context.Pipe(duplex=False)
        self._process = context.Process(target=_wait_and_draw, args=(theirs,), daemon=True)
        with without_script():
            self._process.start()
        theirs.close()

    def __enter__(self) -> LengthsPicture:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._told.close()
            self._process.kill()
            self._process.join()

    def draw(self, tokens: Mapping[str, np.ndarray], block_size: int, path: Path) -> None:
        """Begin to draw; `finish` must follow.

        Args:
            tokens: Split → tokens of each of its documents.
            block_size: Tokens in a row.
            path: The PNG to write.
        """
        self._asked = _counted(tokens), block_size, path
        if self._process is not None:
            try:
                self._told.send(self._asked)
            except OSError:  # it is gone: `finish` sees that
                return

    def finish(self) -> None:
        """Wait for the picture."""
        if self._process is not None:
            self._process.join()
            if self._process.exitcode == 0:
                return
        _draw(*self._asked)


def _wait_and_draw(told: Connection) -> None:
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # Ctrl-C is the parent's to answer
    import matplotlib.figure  # noqa: F401

    try:
        asked = told.recv()
    except EOFError:  # there is nothing to draw
        return
    _draw(*asked)


def _counted(tokens: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Edges of the bins, and the documents in each by split."""
    longest = max((int(lengths.max(initial=1)) for lengths in tokens.values()), default=1)
    edges = np.geomspace(1, max(longest, 2) + 1, 60)
    return edges, {name: np.histogram(np.maximum(lengths, 1), edges)[0] for name, lengths in tokens.items()}


def _draw(counted: tuple[np.ndarray, dict[str, np.ndarray]], block_size: int, path: Path) -> None:
    from matplotlib.figure import Figure

    edges, splits = counted
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    for name, counts in splits.items():
        filled = name == "train"
        axes.stairs(counts, edges, label=f"{name}: {counts.sum():,} documents", fill=filled, alpha=0.6 if filled else 1)
    axes.axvline(block_size, color="black", linestyle="--", linewidth=1, label=f"a row: {block_size:,} tokens")
    axes.set(xscale="log", yscale="symlog", xlabel="tokens in a document", ylabel="documents")
    axes.legend(frameon=False)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.96, bottom=0.14)  # laying it out automatically takes a second
    figure.savefig(path, dpi=110, format="png")
