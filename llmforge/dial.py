"""``--deadline``: what is not given follows from the corpus, the device and the time, and is told as a config to keep."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from llmforge.configs.deadline import UNBOUNDED
from llmforge.configs.run import PretrainConfig
from llmforge.configs.units import format_count, format_seconds
from llmforge.errors import ConfigError
from llmforge.mirroring import fetch_records
from llmforge.planning.advice import refuse_tiny_corpus
from llmforge.planning.corpus import corpus_size
from llmforge.planning.dial import LADDER, MOST_EPOCHS, SMALLEST, Choice, choose
from llmforge.planning.flags import apply_flags, flags_of, pinned_by, with_flags
from llmforge.planning.speed import CPU_SHARE, GPU_SHARE
from llmforge.runtime.clock import command_began
from llmforge.runtime.devices import Device, matrix_flops, peak_flops, probe_device
from llmforge.runtime.launch import local_world_size, rank, rank_zero_first, world_size
from llmforge.runtime.logs import logger, show
from llmforge.runtime.precision import choose_precision
from llmforge.runtime.run_folder import RUN_RECORD
from llmforge.speed_probe import probe_speed
from llmforge.storage.records import read_json

#: Evaluations and saves, evenly over the time.
EVALUATIONS = 5
#: Without these many steps there is nothing to show.
LEAST_STEPS = 10
#: Shorter deadlines are not worth a probe's seconds, on a CPU, whose speed is foretold well enough; and how many steps it has.
_PROBED_FROM, _PROBE_STEPS = 120.0, 4
#: How far a measured speed may be from the foretold one before the choice is made anew.
_CLOSE = 1.25
#: The start of preparing data in seconds, and its bytes a second on a core: docs/concepts/scaling.md.
_PREPARE_START, _PREPARED = 3.0, 4e6
#: Of the time after preparing, what is left for steps: the rest are evaluations and saves.
_STEPS_SHARE = 0.93
#: Seconds at the end besides evaluations.
_END = 4.0
#: A device that the table does not know is taken for this fast until it is measured.
_UNKNOWN = 2e13


def set_dial(config: PretrainConfig, given: set[str], changed: Mapping[str, Any]) -> None:
    """Fill in what ``--deadline`` decides, and show it; nothing without one.

    A run that is resumed keeps what was chosen at its start.

    Args:
        config: Changed in place.
        given: The fields that flags or the YAML file name, which stay.
        changed: Those that differ from their defaults, for the config that is shown.

    Raises:
        ConfigError: The deadline is too short, the size of the corpus is not known, a flag counts steps whose number nobody
            knows, or several machines would each choose for themselves.
        DataError: The corpus is not there, or too small.
    """
    deadline = config.deadline
    if deadline.deadline is None:
        return
    deadline.begun = command_began()
    _pace(config, given)
    before = _chosen_before(config) if config.run.resume or config.run.eval_only else None
    if before is not None:
        deadline.chosen = before
    else:
        told = rank_zero_first()(lambda: _decide(config, given))
        deadline.chosen = told["chosen"]
        if deadline.chosen and world_size() > local_world_size():
            raise ConfigError(
                f"--deadline {deadline.deadline} on several machines: each would choose for itself.",
                "Choose on one of them, with --dry_run, and give all of them what it shows by --config.",
            )
        deadline.end_seconds, deadline.step_seconds = told["end"], told["step"]
        if rank() == 0:
            kept = yaml.safe_dump({**changed, **deadline.chosen}, sort_keys=False, allow_unicode=True)
            logger.info("%s", told["why"])
            if told["early"]:
                logger.warning("%s", told["early"])
            show(f"# to keep, and to change: llmforge pretrain --config FILE\n{kept}")
    apply_flags(config, {name: value for name, value in deadline.chosen.items() if name not in given})
    if "num_train_epochs" in deadline.chosen and config.training.max_steps == UNBOUNDED:
        config.training.max_steps = -1  # so that the epochs count


def _chosen_before(config: PretrainConfig) -> dict[str, Any] | None:
    """What was chosen for the run that is resumed, here or in its store; None where there is no run yet."""
    resume = config.run.resume
    place = Path(config.training.output_dir or ".") if config.training.explicit_folder else None
    if place is None and resume and Path(resume).is_dir():
        place = Path(resume).resolve().parent

    def read() -> dict[str, Any] | None:
        with tempfile.TemporaryDirectory() as fetched:
            found = place if place is not None and (place / RUN_RECORD).exists() else Path(fetched)
            if found != place:
                fetch_records(config, found)
            record = read_json(found / RUN_RECORD) if (found / RUN_RECORD).exists() else None
        return record and dict(record.get("config", {}).get("deadline", {}).get("chosen", {}))

    return rank_zero_first()(read)


def _decide(config: PretrainConfig, given: set[str]) -> dict[str, Any]:
    """The choice, as JSON can hold it; made in one process of each machine."""
    deadline, seconds = config.deadline, config.deadline.seconds() or 0.0
    device = probe_device(config.training.use_cpu)
    precision = choose_precision(config.training.precision, None, device)
    size = corpus_size(config.data, config.tokenizer.vocab_size or 4096)
    if size is None:
        raise ConfigError(
            f"--deadline {deadline.deadline} chooses by the size of the corpus, and there is none, or one of unknown size.",
            "Give --corpus DIR; or run llmforge prepare first, and give --dataset_dir.",
        )
    if size.counted:
        config.data.block_size = size.block_size
    corpus = size.tokens * size.bytes_per_token
    start = 1.0 if size.counted else _PREPARE_START + corpus / _PREPARED / local_world_size()
    pinned = pinned_by(config, given, size)
    rate = _rate(device, precision) * world_size()

    def chosen_at(rate: float) -> tuple[Choice, PretrainConfig]:
        left = seconds - (time.monotonic() - deadline.begun) - start - _END
        choice = choose(max(left, 1.0) * _STEPS_SHARE, rate, corpus, pinned, world_size())
        return choice, with_flags(config, flags_of(config, choice, given, device, precision))

    if pinned.shape is None:
        smallest = f"{LADDER[0][0]} layer of {LADDER[0][1]}"
        refuse_tiny_corpus(int(size.tokens), smallest, SMALLEST, size.bytes_per_token)
    choice, trial = chosen_at(rate)
    measured = ""
    _refuse_short(config, start + _END + LEAST_STEPS * choice.step_tokens * choice.operations / rate)
    speed, tried = _measured(trial, choice, device, seconds), choice
    if speed is not None:
        measured = f", measured {format_count(speed)} tokens a second"
        seen = speed * choice.operations
        if not 1 / _CLOSE < seen / rate < _CLOSE:
            choice, trial = chosen_at(seen)
            measured += f" with {tried}" if str(choice) != str(tried) else ""
        rate = seen
    chosen = flags_of(config, choice, given, device, precision)
    rows = config.data.max_eval_samples if "max_eval_samples" in given else choice.evaluation_rows
    evaluation = (rows or choice.evaluation_rows) * choice.block_size * choice.operations / 3 / rate
    why = (
        f"{format_seconds(seconds)} on {device}{measured}: {choice}, about "
        f"{format_count(choice.tokens)} tokens, {choice.epochs:.2g} epochs"
    )
    early = ""
    if choice.ends_early:
        ended = format_seconds(start + choice.tokens * choice.operations / rate / _STEPS_SHARE + _END)
        early = f"--num_train_epochs {choice.epochs:g}: the run ends after about {ended}"
        if (pinned.epochs or MOST_EPOCHS) == MOST_EPOCHS:
            early = (
                f"{MOST_EPOCHS:.0f} epochs are enough for this corpus, more tend to learn it by heart: the run ends after about "
                f"{ended}; more text would use the rest"
            )
    return {
        "chosen": chosen,
        "early": early,
        "start": start,
        "end": 3 * evaluation + _END,
        "step": choice.step_tokens * choice.operations / rate,
        "why": why,
    }


def _measured(trial: PretrainConfig, choice: Choice, device: Device, seconds: float) -> float | None:
    """Tokens a second of a few steps; None where that is not worth its time or cannot be had.

    Among several processes it cannot: they wait for this one, and only together make a step.
    """
    if world_size() > 1 or (device.kind == "cpu" and seconds < _PROBED_FROM):
        return None
    logger.info("timing a few steps of %s on %s", choice, device)
    try:
        return probe_speed(trial, choice.vocabulary, _PROBE_STEPS, 0.03 * seconds).tokens_per_second
    except torch.OutOfMemoryError:  # --auto_batch finds what fits
        logger.warning("the trial steps ran out of memory: the speed is foretold, not measured")
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _rate(device: Device, precision: str) -> float:
    """Operations a second that a device is taken for until it is measured."""
    if device.kind == "cpu":
        return CPU_SHARE * matrix_flops(precision)
    return GPU_SHARE * (peak_flops(precision, device.name) or _UNKNOWN)


def _pace(config: PretrainConfig, given: set[str]) -> None:
    """Leave the number of steps, and when to evaluate and save, to the time, where the user has said nothing of them.

    Raises:
        ConfigError: Warm-up or logging by a number of steps, or a share of them, that nobody knows.
    """
    training = config.training
    if not {"max_steps", "num_train_epochs"} & given:
        training.max_steps = UNBOUNDED
        if training.warmup_steps >= 1:
            raise _unknown_steps(config, "warmup_steps", "Give a share of the time, 0.02 say, or --max_steps too.")
        if training.logging_steps < 1:
            raise _unknown_steps(config, "logging_steps", "Give a number of steps.")
    evaluated = training.eval_steps if "eval_steps" in given else None
    if evaluated is None or evaluated < 1:
        config.deadline.evaluations = max(round(1 / evaluated), 1) if evaluated else EVALUATIONS
        training.eval_steps = UNBOUNDED
    if config.deadline.evaluations and not ("save_steps" in given and (training.save_steps or 0) >= 1):
        training.save_steps = UNBOUNDED


def _unknown_steps(config: PretrainConfig, name: str, remedy: str) -> ConfigError:
    value = getattr(config.training, name)
    return ConfigError(f"--{name} {value:g} with --deadline: how many steps there will be is not known.", remedy)


def refuse_late(config: PretrainConfig) -> None:
    """Refuse to begin a training that has no time for a few steps.

    Raises:
        ConfigError: It has not; the least that is enough is said.
    """
    deadline = config.deadline
    if deadline.deadline is not None and deadline.step_seconds is not None and not config.dry_run:
        _refuse_short(config, deadline.end_seconds + LEAST_STEPS * deadline.step_seconds)


def _refuse_short(config: PretrainConfig, more: float) -> None:
    needed = time.monotonic() - config.deadline.begun + more
    if needed > (config.deadline.seconds() or 0.0):
        enough = format_seconds(10 * math.ceil(1.1 * needed / 10)).replace(" ", "").replace("min", "m")
        raise ConfigError(
            f"--deadline {config.deadline.deadline} is too short: to start, to take {LEAST_STEPS} steps and to save takes about "
            f"{format_seconds(needed)}.",
            f"Give at least {enough}.",
        )
