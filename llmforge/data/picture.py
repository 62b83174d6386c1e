"""A picture of how long the documents of a dataset are."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from llmforge.runtime.children import without_script


@contextmanager
def lengths_drawn(tokens: Mapping[str, np.ndarray], block_size: int, path: Path) -> Iterator[None]:
    """Draw the picture beside the work of the block, in a process of its own; it is there when the block has ended.

    Importing matplotlib and drawing take longer than packing a small corpus.

    Args:
        tokens: Split → tokens of each of its documents.
        block_size: Tokens in a row.
        path: The PNG to write.
    """
    if "matplotlib.figure" in sys.modules or multiprocessing.current_process().daemon:
        yield
        _draw(_counted(tokens), block_size, path)
        return
    process = multiprocessing.get_context("spawn").Process(target=_draw, args=(_counted(tokens), block_size, path), daemon=True)
    with without_script():
        process.start()
    try:
        yield
        process.join()
    finally:
        process.kill()
        process.join()
    if process.exitcode:
        _draw(_counted(tokens), block_size, path)


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
