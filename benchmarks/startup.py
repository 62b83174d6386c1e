"""python benchmarks/startup.py [--rounds N] [--json]

How long commands take to answer, each a fresh process, in turn: ``llmforge --help``, the help of a
verb that trains (which lists transformers' own training arguments), a mistyped flag, and, to compare
with, the bare imports of torch and of transformers' Trainer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from common import in_turn, parser, spread, table, tell

COMMANDS = {
    "llmforge --help": ["-m", "llmforge", "--help"],
    "llmforge pretrain --help": ["-m", "llmforge", "pretrain", "--help"],
    "llmforge prepare --corpsu x": ["-m", "llmforge", "prepare", "--corpsu", "x"],
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "from transformers import Trainer": ["-c", "from transformers import Trainer"],
}


def process(command: list[str]) -> Callable[[], float]:
    """Seconds from start to end of a Python process."""

    def measure() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=False)
        return time.perf_counter() - started

    return measure


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="starts of each command")
    chosen = options.parse_args()
    seconds = in_turn({name: process(command) for name, command in COMMANDS.items()}, chosen.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {"seconds": medians, "ratio": medians["from transformers import Trainer"] / medians["llmforge --help"]}
    lines = [[f"`{name}`", spread(values)] for name, values in seconds.items()]
    text = f"\n{table([['command', 'seconds'], *lines])}\n\nimporting Trainer over llmforge --help: {figures['ratio']:.0f}"
    tell(chosen.json, figures, text)


if __name__ == "__main__":
    main()
