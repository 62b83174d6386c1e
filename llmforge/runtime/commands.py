"""The boundary of a command: errors become one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llmforge.errors import EXIT_PREEMPTED, TROUBLESHOOTING, ConfigError, LlmforgeError
from llmforge.runtime.clock import one_command
from llmforge.runtime.launch import on_first_machine, rank, rank_zero_first
from llmforge.runtime.logs import printable
from llmforge.runtime.run_lock import refuse_running
from llmforge.runtime.signals import stop_signals


class CommandParser(argparse.ArgumentParser):
    """A parser whose complaints are the one line of all others.

    Raises:
        ConfigError: From every parsing that fails.
    """

    def error(self, message: str) -> NoReturn:
        """Replaces the usage on standard error."""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")


def _refuse_busy_folder(argv: Sequence[str]) -> None:
    """Refuse a command that is to write where a run goes on, before it imports what takes seconds.

    Raises:
        ConfigError: A run goes on in the folder that the arguments, or the YAML file they name, say.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("output_dir", "resume", "config"):
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), nargs="?")
    parser.add_argument("-h", "--help", "--print_config", "--print-config", dest="only_tells", action="store_true")
    try:
        given = parser.parse_known_args(argv)[0]
    except argparse.ArgumentError:  # told by the command's own parser
        return
    folder = given.output_dir
    if folder is None and given.config and Path(given.config).is_file():
        from llmforge.yaml_files import read_yaml  # the command imports it anyway

        folder = read_yaml(Path(given.config)).get("output_dir")
    if folder is None and given.resume and Path(given.resume).is_dir():
        folder = Path(given.resume).resolve().parent
    looks_on = argv[:1] == ["doctor"] or Path(sys.argv[0]).stem == "doctor"  # at the disk, whatever is written there
    if folder is not None and not given.only_tells and not looks_on:
        # Asked once for all processes, on the first machine: it may hold the folder already when another one asks.
        rank_zero_first()(lambda: refuse_running(str(folder)) if on_first_machine() else None)


def run_command(main: Callable[[Sequence[str] | None], Any], argv: Sequence[str] | None = None) -> int:
    """Run `main` and return the exit code of the command.

    An `LlmforgeError` is told in one line on standard error, by the process it happened in;
    ``--debug`` shows the traceback. Any other exception is a bug and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # A bare --debug is ours; `--debug underflow_overflow` is a field of TrainingArguments.
    ours = [i for i, item in enumerate(argv) if item == "--debug" and (argv[i + 1 :] + ["-"])[0].startswith("-")]
    debug = bool(ours)
    argv = [item for i, item in enumerate(argv) if i not in ours]
    try:
        with one_command(), stop_signals.installed():
            _refuse_busy_folder(argv)
            main(argv)
    except LlmforgeError as error:
        stopped = error.exit_code == EXIT_PREEMPTED
        if debug and not stopped:
            raise
        if not error.relayed:
            who = f" (process {rank()})" if rank() else ""
            where = f" ({TROUBLESHOOTING}#{error.see})" if error.see else ""
            print(f"{'interrupted' if stopped else 'error'}{who}: {printable(str(error))}{where}", file=sys.stderr)
        return _leave(error.exit_code)
    except KeyboardInterrupt as error:
        if debug and not error.args:  # by Ctrl-C, where no signal handler is
            raise
        print(f"interrupted by {error}" if error.args else "interrupted", file=sys.stderr)
        return _leave(EXIT_PREEMPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0


def _leave(code: int) -> int:
    """The exit code; after a second Ctrl-C the process ends here and now.

    Nothing is waited for any more: not for a checkpoint that is being written, which was never committed, nor for torch to
    be taken down, which takes ten seconds where others use the machine.
    """
    if stop_signals.insisted:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
