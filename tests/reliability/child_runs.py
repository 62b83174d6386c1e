"""Runs in processes of their own, to be signalled and killed: forked, so that nothing is imported again."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import transformers.models.gpt2.modeling_gpt2
import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401

#: What a child would otherwise import for itself, every time.
import llmforge.cross_entropy
import llmforge.metrics
import llmforge.optimizers
import llmforge.pretrain
from llmforge.runtime.commands import run_command

#: Of a run of the smallest model.
TINY = shlex.split(
    "--preset gpt2-10m --n_layer 2 --n_embd 32 --n_head 2 --vocab_size 400 --block_size 64 --logging_steps 1"
    " --report_to none --disable_tqdm --per_device_train_batch_size 4 --per_device_eval_batch_size 2 --eval_on_start false"
)
_SECONDS = 60.0


class Child:
    """A forked process that runs `function` and ends with what that returns; its output goes to ``<name>.out``."""

    def __init__(self, function: Callable[[], int | None], name: str = "child"):
        self.output = Path(f"{name}.out")
        self.code: int | None = None
        self.seconds = 0.0
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - pytest's own captures are the parent's
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            faulthandler.enable(2)
            code = function() or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def until(self, path: Path | str) -> None:
        """Wait until a file is there."""
        end = time.monotonic() + _SECONDS
        while not Path(path).exists():
            assert self.poll() is None, f"it ended before {path}: {self.text()}"
            assert time.monotonic() < end, f"no {path}: {self.stuck()}"
            time.sleep(0.005)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = _SECONDS) -> int:
        """The exit code; killed and failed if it takes longer. `seconds` of the object says how long it took."""
        begin = time.monotonic()
        while self.poll() is None:
            if time.monotonic() - begin > seconds:
                raise AssertionError(f"still running after {seconds} s: {self.stuck()}")
            time.sleep(0.005)
        self.seconds = time.monotonic() - begin
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """End it, and whatever it started, if it has not ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = -signal.SIGKILL

    def stuck(self) -> str:
        """End it; what it wrote, and where each of its threads was."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGABRT)
        end = time.monotonic() + 10
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        self.kill()
        return self.text()

    def text(self) -> str:
        """What it wrote so far."""
        return self.output.read_text() if self.output.exists() else ""


def pretrain(*arguments: str) -> int:
    """`llmforge pretrain` on the tiny model, in this process."""
    return run_command(llmforge.pretrain.main, [*TINY, *arguments])


def hold(function: Callable, file: str, when: Callable[..., bool] = lambda *_: True, seconds: float = 30.0) -> Callable:
    """`function`, but when `when` says so of its arguments it first writes `file` and waits until ``<file>.go`` is there."""

    def held(*arguments, **named):
        if not Path(file).exists() and when(*arguments):
            Path(file).touch()
            end = time.monotonic() + seconds
            while not Path(f"{file}.go").exists() and time.monotonic() < end:
                time.sleep(0.005)
        return function(*arguments, **named)

    return held
