"""llmforge doctor
llmforge doctor --quick --json
llmforge doctor --output_dir /data/runs --remote gs://bucket/runs

What this machine can do, and what is wrong with it: libraries, devices, whether they compute rightly and how fast, the
disk of the runs, the system's limits, a store, and a short training. Each finding comes with its remedy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence

from llmforge.configs.doctor import DoctorArguments
from llmforge.diagnosis.examination import examine
from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine
from llmforge.diagnosis.show import Screen, as_json
from llmforge.errors import CheckFailed
from llmforge.runtime.commands import CommandParser, run_command


def parser() -> argparse.ArgumentParser:
    """The command line; not the other verbs' parser, which needs libraries that may be what is wrong."""
    made = CommandParser(
        prog="llmforge doctor",
        description="What this machine can do, and what is wrong with it.",
        allow_abbrev=False,
    )
    for item in dataclasses.fields(DoctorArguments):
        names = dict.fromkeys((f"--{item.name}", f"--{item.name.replace('_', '-')}"))
        told = item.metadata["help"]
        if isinstance(item.default, bool):
            made.add_argument(*names, action="store_true", help=told)
        else:
            made.add_argument(*names, default=item.default, help=f"{told} (default: {item.default})" if item.default else told)
    return made


def diagnose(args: DoctorArguments, machine: Machine | None = None) -> list[Finding]:
    """Look at the machine, show what is found, and return it.

    Args:
        args: What to look at.
        machine: By default the one that this runs on.

    Raises:
        CheckFailed: Training will not work here.
    """
    screen, start = Screen(), time.perf_counter()
    findings: list[Finding] = []
    try:
        for finding in examine(machine or Machine(), args, screen.doing):
            findings.append(finding)
            if not args.json:
                screen.add(finding)
    finally:
        screen.clear()
    seconds = time.perf_counter() - start
    if args.json:
        print(json.dumps(as_json(findings, seconds)), flush=True)
    else:
        screen.end(findings, seconds)
        sys.stdout.flush()
    failures = [finding for finding in findings if finding.level == "failure"]
    if failures:
        told = "; ".join(dict.fromkeys(finding.subject for finding in failures))
        raise CheckFailed(
            f"Training will not work here: {len(failures)} failure{'s' * (len(failures) > 1)} ({told}).",
            "Each says above what to do." if not args.json else "Each finding says what to do.",
        )
    return findings


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge doctor`."""
    diagnose(DoctorArguments(**vars(parser().parse_args(argv))))


if __name__ == "__main__":
    sys.exit(run_command(main))
