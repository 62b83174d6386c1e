"""Small trainings that are killed and gone on with, in processes that are forked and import nothing anew.

`chaos.py` is the same at length.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import awkward_documents, forge_trainer, packed_rows, tiny_model
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from llmforge.checkpoints.manifest import list_checkpoints, verify
from llmforge.checkpoints.resume import find_checkpoint

STEPS = 5
#: Seconds after which a child is taken to hang.
HANGING = 300.0
#: Every step is saved; dropout is on, so that a random state out of step shows.
SETTINGS = {
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
}


def training(folder: Path, tokenizer, preset: str = "gpt2-10m", fresh_seed: int = 0, saving=None, callbacks=(), **changes):
    """A trainer that saves at every step."""
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    model = tiny_model(preset, tokenizer, dropout=True, seed=fresh_seed)
    trainer = forge_trainer(model, tokenizer, folder, rows, rows, callbacks=callbacks, saving=saving, **SETTINGS | changes)
    trainer.remove_callback(PrinterCallback)
    return trainer


def go_on(folder: Path, tokenizer, **changes):
    """Train from the newest sound checkpoint to the end, as ``--resume`` does; from other weights, so that none are left over."""
    found = find_checkpoint(folder)
    trainer = training(folder, tokenizer, fresh_seed=0 if found is None else 1, **changes)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    return trainer


def _alone(told: int) -> None:
    """What a child has to have for itself.

    tqdm's lock is one for all forks of a process, and each class of it may have its own: a fork that was killed takes
    it along. A child that hangs is a failure like another, and its traceback is `told`.
    """
    classes = [tqdm]
    while classes:
        kind = classes.pop()
        kind.set_lock(threading.RLock())
        classes += kind.__subclasses__()
    faulthandler.dump_traceback_later(HANGING, exit=True, file=told)


def child(work: Callable[[], object], quiet: bool = False) -> int:
    """Begin `work` in a child process, and return its process id; it ends with 0, or 70 where `work` raised, which is shown."""
    sys.stdout.flush()
    sys.stderr.flush()
    begun = os.fork()
    if begun:
        return begun
    code, told = 70, os.dup(2)
    try:
        _alone(told)
        if quiet:
            for output in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        work()
        code = 0
    except BaseException:
        os.write(told, traceback.format_exc().encode())
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, negative for a signal, as `subprocess` has it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(work: Callable[[], object], quiet: bool = False) -> int:
    """Do `work` in a child process; its exit code."""
    return ended(child(work, quiet))


def killed_after(seconds: float, work: Callable[[], object], ready: Callable[[], bool]) -> int:
    """Do `work` in a child process that is killed so long after `ready`; its exit code, its own if it was done."""
    pid = child(work, quiet=True)
    while not ready():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)  # till it is waited for it is there, if only as a zombie
    return ended(pid)


def weights(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """Of a checkpoint, read as anybody would."""
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the last bit."""
    return sorted(one.keys() ^ other.keys()) + [
        name for name in one.keys() & other.keys() if not torch.equal(one[name], other[name])
    ]


def unsound(folder: Path) -> list[str]:
    """What is wrong with what a run's folder shows as committed, and what was left lying there."""
    problems = [f"{path.name}: {problem}" for path in list_checkpoints(folder) for problem in verify(path)]
    known = {"set-aside", "logs"}
    left = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("checkpoint-")]
    return problems + [name for name in left if name not in known]


class KillAt:
    """An audit hook that kills the process at the n-th time that something in a folder is opened, made, renamed or removed."""

    EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate", "os.chmod")

    def __init__(self, folder: Path, number: int):
        self.folder, self.left = str(folder), number
        self.on = True

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.on and event in self.EVENTS and any(self.folder in str(item) for item in arguments[:2]):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Beat(TrainerCallback):
    """Makes a file longer by one byte at the start of every step."""

    def __init__(self, path: Path):
        self.path = path

    def on_step_begin(self, args, state, control, **kwargs):
        with open(self.path, "ab") as file:
            file.write(b".")


class At(TrainerCallback):
    """Calls something at the end of a step."""

    def __init__(self, step: int, work: Callable[[], object]):
        self.step, self.work = step, work

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.work()
