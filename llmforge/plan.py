"""llmforge plan --list_presets

The presets with their exact parameter counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from llmforge.errors import ConfigError
from llmforge.models import PRESETS, Preset
from llmforge.runtime.commands import run_command
from llmforge.runtime.logs import console


def preset_parameters(preset: Preset) -> int:
    """Parameters at the reference vocabulary, tied ones once.

    A block of width d has 12d² weights and 13d biases and layer-norm entries in both
    architectures; GPT-2 has learned positions and one embedding table, GPT-NeoX neither
    positions to learn nor shared tables. Checked against the models themselves in the tests.
    """
    d, block = preset.width, 12 * preset.width**2 + 13 * preset.width
    tables = preset.vocab_size + preset.positions if preset.family == "GPT-2" else 2 * preset.vocab_size
    return tables * d + preset.layers * block + 2 * d


def list_presets() -> list[dict[str, Any]]:
    """Every preset: name, family, layers, width, heads, positions, vocab_size, parameters."""
    return [{"preset": name, **vars(preset), "parameters": preset_parameters(preset)} for name, preset in PRESETS.items()]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge plan`."""
    parser = _Parser(prog="llmforge plan", description="Sizes of the presets.", allow_abbrev=False)
    parser.add_argument(
        "--list_presets",
        "--list-presets",
        action="store_true",
        required=True,
        help="List the presets with their exact parameter counts.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")
    args = parser.parse_args(argv)
    presets = list_presets()
    if args.json:
        print(json.dumps({"presets": presets}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption="parameters at the reference vocabulary; a run prints its own count")
    for column in ("preset", "family", "layers", "width", "heads", "positions", "vocabulary", "parameters"):
        table.add_column(column, justify="left" if column in ("preset", "family") else "right")
    for row in presets:
        sizes = (row["layers"], row["width"], row["heads"], row["positions"], row["vocab_size"], row["parameters"])
        table.add_row(row["preset"], row["family"], *(f"{size:,}" for size in sizes))
    console().print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
