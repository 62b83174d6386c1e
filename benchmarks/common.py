"""What the benchmarks share: rows to train on, rounds in turn, and how a result is told."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmforge.data.packing import Rows, pack


def packed(count: int, block_size: int, document: int, vocab_size: int, seed: int = 0) -> Rows:
    """At least `count` packed rows of made-up documents, of some `document` tokens each (a half to one and a half times that)."""
    source = np.random.RandomState(seed)
    total, sizes = count * block_size, []
    while sum(sizes) < total + block_size:
        sizes.append(int(source.randint(max(document // 2, 1), document * 3 // 2 + 1)))
    # Zipf-like ids, as in text: the loss and its gradient see few tokens often and most seldom.
    ids = [(2 + (vocab_size - 2) * source.power(0.3, size)).astype(np.int32) for size in sizes]
    return pack(ids, range(len(ids)), block_size, 0, 1)


def packed_rows(count: int, block_size: int, document: int, vocab_size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Just `count` of them, each by itself."""
    rows = packed(count, block_size, document, vocab_size, seed)
    names = ("input_ids", "segment_lengths", "segment_targets", "segment_documents")
    columns = {name: getattr(rows, name) for name in names}
    return [{name: np.asarray(column[index]) for name, column in columns.items()} for index in range(count)]


def in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """`rounds` figures of each way, taken in turn so that a noisy machine disturbs all alike; a first round is left out."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            figure = way()
            if turn:
                taken[name].append(figure)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the pairs' ratios: each pair was taken side by side."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch
    import transformers

    from llmforge.runtime.devices import probe_device

    return {
        "device": str(probe_device()),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def spread(values: Sequence[float], form: str = "{:.3g}") -> str:
    """Median, least and most, as people read them."""
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """`rows`, the first of them the heading, as a Markdown table."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with ``--json``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return made


def tell(as_json: bool, figures: dict[str, Any], text: str) -> None:
    """Print the figures as JSON, or the text after a line about the machine."""
    about = machine()
    if as_json:
        print(json.dumps(figures | {"machine": about}))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()), text, sep="\n")
