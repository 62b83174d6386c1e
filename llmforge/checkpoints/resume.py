"""Which checkpoint a run goes on from."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path

from llmforge.checkpoints.manifest import METADATA, checkpoint_step, is_committed, verify
from llmforge.errors import CheckpointError, Entry, LlmforgeError
from llmforge.runtime.logs import logger

#: Without any of these a resumed run would silently go on with fresh state; ``--allow_fresh_optimizer`` wants that.
_STATE = ("optimizer.pt", "scheduler.pt")
_NEEDED = ("trainer_state.json", "config.json")
_RNG, _SCALER = "rng_state.pth", "scaler.pt"

#: What `find_checkpoint` has just read and found sound; the training that begins with it needs not read it again.
_sound: set[Path] = set()
#: Of the page of symptoms.
_SEE: Entry = "resume-refused"


def missing_file(checkpoint: Path, fresh_optimizer: bool = False, scaler: bool = False) -> str | None:
    """The first file a checkpoint lacks to be resumed from, None when all are there.

    Args:
        fresh_optimizer: Do without the state of optimizer, schedule, scaler and random numbers.
        scaler: Whether the training has a gradient scaler, as one in fp16 does.
    """
    adapter = (checkpoint / "adapter_config.json").is_file()  # of LoRA; the model's own config lies with its base
    wanted = [*_NEEDED] if fresh_optimizer else [*_NEEDED[:1], *_STATE, *_NEEDED[1:], *([_SCALER] if scaler else [])]
    for name in wanted:
        if not (checkpoint / name).is_file() and not (adapter and name == "config.json"):
            return name
    weights = "adapter_model" if adapter else "model"
    if not any(checkpoint.glob(f"{weights}*.safetensors")):
        return f"{weights}.safetensors"
    return None if fresh_optimizer or any(checkpoint.glob("rng_state*.pth")) else _RNG


def find_checkpoint(
    run_folder: Path, which: str = "newest", deep: bool = True, fresh_optimizer: bool = False, scaler: bool = False
) -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        run_folder: The run's folder.
        which: ``newest``, the name of a checkpoint in the folder, or a path.
        deep: Read and hash every file; otherwise only what takes no time is looked at.
        fresh_optimizer: As ``--allow_fresh_optimizer``.
        scaler: Whether the training has a gradient scaler.

    Returns:
        A checkpoint that was committed, is sound and has every file that resuming reads; None where the newest was
        asked for and there is none at all. One that was never committed, as plain Trainer leaves them, is taken
        where it is named.

    Raises:
        CheckpointError: The one named cannot be used, or all there are cannot.
    """
    if which != "newest":
        named = next((path for path in (run_folder / which, Path(which)) if path.is_dir()), None)
        if named is None:
            remedy = "Give --resume alone for the newest."
            raise CheckpointError(f"--resume {which}: no such checkpoint in {run_folder}.", remedy, _SEE)
        problem = _problem(named, deep, fresh_optimizer, scaler, committed=False)
        if problem:
            raise CheckpointError(
                f"--resume {which}: {named} cannot be used: {problem}.",
                _remedy(problem, "--resume alone finds the newest sound one."),
                _SEE,
            )
        return named
    found = sorted(
        ((step, path) for path in run_folder.glob("checkpoint-*") if (step := checkpoint_step(path)) is not None), reverse=True
    )
    problem = ""
    for _, path in found:
        problem = _problem(path, deep, fresh_optimizer, scaler) or ""
        if not problem:
            return path
        logger.warning("%s is passed over: %s", path.name, problem)
    if found:
        raise CheckpointError(
            f"None of the {len(found)} checkpoints in {run_folder} can be used; the oldest: {problem}.",
            _remedy(problem, "Start a new run."),
            _SEE,
        )
    return None


def _remedy(problem: str, otherwise: str) -> str:
    if any(f"has no {name}" in problem or f"{name}: is missing" in problem for name in (*_STATE, _RNG, _SCALER)):
        return f"Give --allow_fresh_optimizer to go on without it. {otherwise}"
    return "Name one with --resume to take it as it is." if "never committed" in problem else otherwise


def _problem(path: Path, deep: bool, fresh_optimizer: bool, scaler: bool, committed: bool = True) -> str | None:
    """What makes a checkpoint unfit to be resumed from, in one line."""
    if is_committed(path):
        problems = _soundness(path, deep)
        if fresh_optimizer:
            problems = [line for line in problems if not _is_state(line)]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return problems[0].rstrip(".") + more
    elif committed or (path / METADATA).exists():
        return "it was never committed, there is no manifest.json"
    else:
        logger.warning("%s has no manifest: it is taken as it is, unverified", path)
    lacking = missing_file(path, fresh_optimizer, scaler)
    return f"it has no {lacking}" if lacking else None


def _soundness(path: Path, deep: bool) -> list[str]:
    problems = verify(path, deep)
    if deep and not problems:
        _sound.add(path.resolve())
    return problems


def _is_state(line: str) -> bool:
    """Whether a problem is the lack of a file that ``--allow_fresh_optimizer`` does without."""
    name, _, what = line.partition(": ")
    return what == "is missing" and (name in (*_STATE, _SCALER) or name.startswith("rng_state"))


def require_sound(checkpoint: Path, fresh_optimizer: bool = False, scaler: bool = False) -> None:
    """Refuse a checkpoint that cannot be resumed from; one just found by `find_checkpoint` is not read again.

    Raises:
        CheckpointError: Saying what is wrong with it.
    """
    just_read = checkpoint.resolve() in _sound
    _sound.clear()
    find_checkpoint(checkpoint.parent, str(checkpoint.resolve()), not just_read, fresh_optimizer, scaler)


@contextlib.contextmanager
def loading(checkpoint: str | None) -> Iterator[None]:
    """Turn what torch and safetensors raise for a file that they cannot take into one clear line.

    Raises:
        CheckpointError: Instead.
    """
    try:
        yield
    except LlmforgeError:
        raise
    except Exception as error:
        kinds = (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, pickle.UnpicklingError)
        ours = isinstance(error, kinds) or type(error).__name__ == "SafetensorError"
        if not ours or type(error).__name__ == "OutOfMemoryError":
            raise
        reason = " ".join(str(error).split())[:300].rstrip(". ")
        raise CheckpointError(
            f"{checkpoint} cannot be loaded: {reason}.",
            "Choose another checkpoint, or resume with the model and optimizer it is of.",
            _SEE,
        ) from error
