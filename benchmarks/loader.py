"""python benchmarks/loader.py [--cpu_time] [--json]

How long a batch of 8 x 1,024 tokens takes to read and collate: packed rows as views into the
memory map, fetched together or one by one, against the stock way (rows of Python lists from `datasets` and
`default_data_collator`, which makes no positions and no targets), in alternating rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import load_from_disk, logging
from transformers import default_data_collator

from llmforge import PackedCollator, PackedRows
from llmforge.data.packing import pack
from llmforge.data.rows import to_dataset

ROWS, LENGTH, BATCH, ROUNDS, BATCHES = 2_000, 1024, 8, 9, 50


def seconds_a_batch(step: Callable[[list[int]], object], source: np.random.RandomState, clock: Callable[[], float]) -> float:
    """Mean seconds of `step` over random batches."""
    batches = [source.randint(0, ROWS, BATCH).tolist() for _ in range(BATCHES)]
    start = clock()
    for indices in batches:
        step(indices)
    return (clock() - start) / BATCHES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--cpu_time", action="store_true", help="count the process's own time, where others use the machine too")
    args = parser.parse_args()
    as_json, clock = args.json, time.process_time if args.cpu_time else time.perf_counter
    logging.disable_progress_bar()
    source = np.random.RandomState(0)
    # Documents of some 300 tokens: three or four segments a row, as in source code.
    documents = [source.randint(2, 50_000, source.randint(50, 550)).astype(np.uint16) for _ in range(7_200)]
    packed = pack(documents, range(len(documents)), LENGTH, 0, 1)
    collate = PackedCollator()
    with tempfile.TemporaryDirectory() as folder:
        to_dataset(packed).select(range(ROWS)).save_to_disk(str(Path(folder) / "rows"))
        dataset = load_from_disk(str(Path(folder) / "rows"))
        rows, stock = PackedRows(dataset, pad=1), dataset.select_columns(["input_ids"])
        ways = {
            "views, read and collated": lambda indices: collate(rows.__getitems__(indices)),
            "views, one by one": lambda indices: collate([rows[index] for index in indices]),
            "views, read only": lambda indices: rows.__getitems__(indices),
            "stock, read and collated": lambda indices: default_data_collator(stock.__getitems__(indices)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):
            for name, step in ways.items():
                times[name].append(1e3 * seconds_a_batch(step, source, clock))
    # The first round warms the page cache and is left out.
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratio = medians["stock, read and collated"] / medians["views, read and collated"]
    if as_json:
        print(json.dumps({"milliseconds": medians, "ratio": ratio}))
        return
    print(f"batch of {BATCH} x {LENGTH}, medians of {ROUNDS} rounds of {BATCHES}")
    for name, values in times.items():
        print(f"  {name:<26} {medians[name]:8.3f} ms   ({min(values[1:]):.3f} to {max(values[1:]):.3f})")
    print(f"ratio stock / views: {ratio:.1f}")


if __name__ == "__main__":
    main()
