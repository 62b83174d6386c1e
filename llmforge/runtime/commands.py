"""The boundary of a command: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmforge.errors import EXIT_PREEMPTED, LlmforgeError
from llmforge.runtime.launch import rank
from llmforge.runtime.logs import printable
from llmforge.runtime.signals import stop_signals


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
        with stop_signals.installed():
            main(argv)
    except LlmforgeError as error:
        stopped = error.exit_code == EXIT_PREEMPTED
        if debug and not stopped:
            raise
        if not error.relayed:
            who = f" (process {rank()})" if rank() else ""
            print(f"{'interrupted' if stopped else 'error'}{who}: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        if debug and not error.args:  # by Ctrl-C, where no signal handler is
            raise
        print(f"interrupted by {error}" if error.args else "interrupted", file=sys.stderr)
        if stop_signals.insisted:  # no more waiting, for a checkpoint that is being written, say: it was never committed
            sys.stdout.flush()
            os._exit(EXIT_PREEMPTED)
        return EXIT_PREEMPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0
