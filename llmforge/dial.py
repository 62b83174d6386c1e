"""``--deadline``: what is not given follows from the corpus, the device and the time, and is told as a config to keep."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from llmforge.configs.model import FIELDS
from llmforge.configs.run import PretrainConfig
from llmforge.configs.units import format_count, format_seconds
from llmforge.errors import ConfigError
from llmforge.mirroring import fetch_records
from llmforge.models import PRESETS, build_config
from llmforge.planning.advice import refuse_tiny_corpus
from llmforge.planning.corpus import CorpusSize, corpus_size
from llmforge.planning.dial import SMALLEST, Choice, Pinned, choose
from llmforge.planning.memory import largest_rows
from llmforge.planning.requirements import setup_for
from llmforge.planning.speed import CPU_SHARE, GPU_SHARE
from llmforge.runtime.clock import command_began
from llmforge.runtime.devices import Device, available_memory, matrix_flops, peak_flops, probe_device
from llmforge.runtime.launch import local_world_size, rank, rank_zero_first, world_size
from llmforge.runtime.logs import logger, show
from llmforge.runtime.precision import choose_precision
from llmforge.runtime.run_folder import RUN_RECORD
from llmforge.speed_probe import probe_speed
from llmforge.storage.records import read_json
from llmforge.tokenization import load_pretrained

#: Steps that no training takes: the time is the bound.
UNBOUNDED = 10_000_000
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
#: Rows of a micro-batch on a CPU, which more do not make faster, and the share of the free memory that they may take.
_CPU_ROWS, _MEMORY_SHARE = 16, 0.8
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
        ConfigError: The deadline is too short, or the size of the corpus is not known.
        DataError: The corpus is not there, or too small.
    """
    deadline = config.deadline
    if deadline.deadline is None:
        return
    deadline.begun = command_began()
    if config.run.resume or config.run.eval_only:
        deadline.chosen = _chosen_before(config)
    else:
        told = rank_zero_first()(lambda: _decide(config, given))
        deadline.chosen = told["chosen"]
        deadline.end_seconds, deadline.step_seconds = told["end"], told["step"]
        if rank() == 0:
            kept = yaml.safe_dump({**changed, **deadline.chosen}, sort_keys=False, allow_unicode=True)
            logger.info("%s", told["why"])
            show(f"# to keep, and to change: llmforge pretrain --config FILE\n{kept}")
    _apply(config, {name: value for name, value in deadline.chosen.items() if name not in given})
    _pace(config, given)


def _chosen_before(config: PretrainConfig) -> dict[str, Any]:
    """What was chosen for the run that is resumed, here or in its store."""
    resume = config.run.resume
    place = Path(config.training.output_dir or ".") if config.training.explicit_folder else None
    if place is None and resume and Path(resume).is_dir():
        place = Path(resume).resolve().parent

    def read() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as fetched:
            found = place if place is not None and (place / RUN_RECORD).exists() else Path(fetched)
            if found != place:
                fetch_records(config, found)
            record = read_json(found / RUN_RECORD) if (found / RUN_RECORD).exists() else {}
        return dict(record.get("config", {}).get("deadline", {}).get("chosen", {}))

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
    corpus = size.tokens * size.bytes_per_token
    start = 1.0 if size.counted else _PREPARE_START + corpus / _PREPARED / local_world_size()
    pinned = _pinned(config, given, size)
    rate = _rate(device, precision) * world_size()

    def chosen_at(rate: float) -> tuple[Choice, PretrainConfig]:
        left = seconds - (time.monotonic() - deadline.begun) - start - _END
        choice = choose(max(left, 1.0) * _STEPS_SHARE, rate, corpus, pinned, world_size())
        return choice, _with(config, _fields(config, choice, given, device, precision))

    choice, trial = chosen_at(rate)
    measured = ""
    _refuse_short(config, start + _END + LEAST_STEPS * choice.step_tokens * choice.operations / rate)
    if device.kind != "cpu" or seconds >= _PROBED_FROM:
        speed = probe_speed(trial, choice.vocabulary, _PROBE_STEPS, 0.03 * seconds).tokens_per_second * world_size()
        measured = f", measured {format_count(speed)} tokens a second"
        seen = speed * choice.operations
        if not 1 / _CLOSE < seen / rate < _CLOSE:
            choice, trial = chosen_at(seen)
            measured += f" with {choice.layers} layers of {choice.width}" if seen != rate else ""
        rate = seen
    refuse_tiny_corpus(int(choice.unique), "a layer of 64", SMALLEST, size.bytes_per_token)
    chosen = _fields(config, choice, given, device, precision)
    rows = config.data.max_eval_samples if "max_eval_samples" in given else choice.evaluation_rows
    evaluation = (rows or choice.evaluation_rows) * choice.block_size * choice.operations / 3 / rate
    why = (
        f"{format_seconds(seconds)} on {device}{measured}: {choice.layers} layers of {choice.width}, about "
        f"{format_count(choice.tokens)} tokens, {choice.epochs:.2g} epochs"
    )
    return {
        "chosen": chosen,
        "start": start,
        "end": 3 * evaluation + _END,
        "step": choice.step_tokens * choice.operations / rate,
        "why": why,
    }


def _pinned(config: PretrainConfig, given: set[str], size: CorpusSize) -> Pinned:
    """What is not to be chosen."""
    shape = None
    if _names_model(given):
        model = build_config(config.model, PRESETS[config.model.preset].vocab_size)
        shape = (model.num_hidden_layers, model.hidden_size)
    training = config.training
    step = {"per_device_train_batch_size", "gradient_accumulation_steps"} & given
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size()
    vocabulary = config.tokenizer.vocab_size if "vocab_size" in given else size.vocabulary
    if vocabulary is None and config.tokenizer.tokenizer is not None:
        vocabulary = len(load_pretrained(config.tokenizer.tokenizer))
    return Pinned(
        shape,
        vocabulary,
        size.block_size if size.counted or "block_size" in given else None,
        rows if step else None,
    )


def _names_model(given: set[str]) -> bool:
    sizes = ("preset", "n_layer", "n_embd", "n_head", "n_inner", *FIELDS["GPT-NeoX"])
    return bool(given & set(sizes))


def _rate(device: Device, precision: str) -> float:
    """Operations a second that a device is taken for until it is measured."""
    if device.kind == "cpu":
        return CPU_SHARE * matrix_flops(precision)
    return GPU_SHARE * (peak_flops(precision, device.name) or _UNKNOWN)


def _fields(config: PretrainConfig, choice: Choice, given: set[str], device: Device, precision: str) -> dict[str, Any]:
    """The flags of a choice that the user has not given."""
    fields: dict[str, Any] = {}
    if not _names_model(given):
        fields |= _model(choice)
        if choice.dropout:
            fields |= {"resid_pdrop": choice.dropout, "embd_pdrop": choice.dropout}
    if config.data.dataset_dir is None:
        fields |= {"block_size": choice.block_size}
        fields |= {"vocab_size": choice.vocabulary} if config.tokenizer.tokenizer is None else {}
    if not {"lr_scheduler_kwargs", "min_lr_ratio", "decay_ratio"} & given:  # which are of another schedule
        fields |= {"lr_scheduler_type": "linear"}
    fields |= {"max_eval_samples": choice.evaluation_rows}
    fields |= {"logging_steps": min(max(int(choice.tokens / choice.step_tokens / 100), 1), 10)}
    share = choice.step_rows // world_size()
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & given:
        setup = setup_for(_with(config, fields), choice.vocabulary, device, precision, world_size())
        sharing = local_world_size() if device.kind == "cpu" else 1
        room = int(available_memory(config.training.use_cpu) * _MEMORY_SHARE) // sharing
        most = largest_rows(setup, share, room) or 1
        while device.kind == "cpu" and most > _CPU_ROWS and most % 2 == 0:
            most //= 2
        fields |= {"per_device_train_batch_size": most, "gradient_accumulation_steps": share // most}
        fields |= {"per_device_eval_batch_size": min(most, 8)}
    return {name: value for name, value in fields.items() if name not in given}


def _model(choice: Choice) -> dict[str, Any]:
    """The preset of these sizes, or the nearest one with other sizes."""
    exact = [
        name
        for name, preset in PRESETS.items()
        if (preset.family, preset.layers, preset.width) == ("GPT-2", choice.layers, choice.width)
    ]
    if exact:
        return {"preset": exact[0]}
    near = min(
        (name for name in PRESETS if PRESETS[name].family == "GPT-2"),
        key=lambda name: abs(math.log(choice.weights / (12 * PRESETS[name].layers * PRESETS[name].width ** 2))),
    )
    return {"preset": near, "n_layer": choice.layers, "n_embd": choice.width, "n_head": choice.heads}


def _with(config: PretrainConfig, fields: Mapping[str, Any]) -> PretrainConfig:
    """A copy of `config` with these fields."""
    made = copy.copy(config)
    for part in ("model", "tokenizer", "data", "training"):
        setattr(made, part, copy.copy(getattr(config, part)))
    _apply(made, fields)
    return made


def _apply(config: PretrainConfig, fields: Mapping[str, Any]) -> None:
    parts = (config.model, config.tokenizer, config.data, config.training)
    for name, value in fields.items():
        if name == "lr_scheduler_type":
            config.training.set_schedule(value)
            continue
        setattr(next(part for part in parts if hasattr(part, name)), name, value)


def _pace(config: PretrainConfig, given: set[str]) -> None:
    """Leave the number of steps, and when to evaluate and save, to the time, where the user has said nothing of them.

    Raises:
        ConfigError: A warm-up of so many steps, of a number that nobody knows.
    """
    training = config.training
    if training.warmup_steps >= 1:
        raise ConfigError(
            f"--warmup_steps {training.warmup_steps:g} with --deadline: how many steps there will be is not known.",
            "Give a share of them, 0.02 say.",
        )
    if not {"max_steps", "num_train_epochs"} & given:
        training.max_steps = UNBOUNDED
    if "eval_steps" not in given:
        config.deadline.evaluations = EVALUATIONS
        training.eval_steps = UNBOUNDED
    if not {"save_steps", "eval_steps"} & given:
        training.save_steps = UNBOUNDED


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
