"""A run around its training: the folder, the records of its start and its end, and what it will do."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge import mirroring
from llmforge.callbacks.deadline import FINISH_SECONDS, Deadline
from llmforge.checkpoints.drift import differences, refuse_drift, training_settings
from llmforge.checkpoints.resume import find_checkpoint
from llmforge.configs.deadline import UNBOUNDED
from llmforge.configs.defaults import defaults_of_changed, settings_of
from llmforge.configs.run import PretrainConfig, RunConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.configs.units import format_seconds
from llmforge.data.prepared import PreparedDataset
from llmforge.ending import end_run
from llmforge.errors import CheckpointError, StorageError
from llmforge.models import count_parameters
from llmforge.planning.memory import Setup, estimate, largest_rows
from llmforge.planning.optimizer_state import is_known
from llmforge.planning.requirements import setup_for
from llmforge.report import refresh_report
from llmforge.runtime.devices import Device, format_bytes, probe_device
from llmforge.runtime.launch import local_rank, local_world_size, rank, rank_zero_first, world_size
from llmforge.runtime.logs import add_log_file, close_bars, logger, remove_log_file, show
from llmforge.runtime.run_folder import RUN_RECORD, RUNS_ROOT, RunFolder, refuse_used_folder, reserve
from llmforge.runtime.run_lock import alone_in
from llmforge.runtime.signals import stop_signals
from llmforge.runtime.trackers import tracker_environment
from llmforge.sharding import wants_sharding
from llmforge.storage.records import read_json
from llmforge.tuning.shape import about, shape_of

#: Training tokens a parameter below which a run says so: less than a small demonstration has.
_HARDLY_ANY = 0.01
#: Kinds of devices that torch calls ``cuda``.
_GPUS = ("cuda", "rocm")


@contextlib.contextmanager
def open_run(config: RunConfig, data: PreparedDataset) -> Iterator[RunFolder]:
    """The run's folder, with its records: ``run.json`` at the start, ``exit.json`` at any end.

    Sets `config.training.output_dir` to it, finds the checkpoint of ``--resume``, and turns
    running out of memory or disk into one clear line.

    Raises:
        CheckpointError: Nothing usable to resume from.
        ConfigError: The run to resume was trained on other data, in another order, or is another model; another
            process runs in the folder; out of memory; a package is missing.
        StorageError: The folder cannot be made or written, or the disk is full.
        Preempted: The run was asked to stop (SIGTERM, Ctrl-C), and its checkpoint is saved.
    """
    training = config.training
    if training.output_dir is None:
        training.output_dir = rank_zero_first()(lambda: str(reserve(config.name)))
    path = Path(training.output_dir)

    def check() -> None:
        if not config.run.resume:  # another run may have begun, and ended, since the command line was checked
            refuse_used_folder(path)

    with stop_signals.installed(), alone_in(path, check), _recorded(config, data, path) as run:
        yield run


@contextlib.contextmanager
def _recorded(config: RunConfig, data: PreparedDataset, path: Path) -> Iterator[RunFolder]:
    """The run with its records, from the start to any end."""
    training = config.training
    handler = mirror = None
    try:
        if config.run.resume:
            rank_zero_first()(lambda: mirroring.fetch_records(config, path))
            handler = add_log_file(path / "run.log")  # which checkpoints are passed over, and why, belongs there
        # Read and hashed in one process of each machine, for all.
        found = rank_zero_first()(lambda: _find(path, config)) if config.run.resume else None
        checkpoint = Path(found) if found else None
        run = RunFolder(path, is_main=rank() == 0, checkpoint=checkpoint)
        _refuse_drift(run, config, data)
        training.run_name = training.run_name or path.name
        handler = handler or add_log_file(path / "run.log")
        run.begin()
        _keep_time(run, config, data)
        mirror = mirroring.open_mirror(config, run)
    except OSError as error:
        remove_log_file(handler)
        raise StorageError(f"--output_dir {path} cannot be written: {error.strerror}.", "Choose another folder.") from error
    except BaseException:
        remove_log_file(handler)
        raise
    try:
        if config.run.resume:
            training.eval_on_start = training.eval_on_start and checkpoint is None
            logger.info("resuming from %s", checkpoint.name if checkpoint else "step 0: no checkpoint was saved yet")
        announce(config, data)
        run.write_record(
            name=path.name,
            config=settings_of(config),
            defaults=defaults_of_changed(config),
            steps=_planned(config, plan_steps(training, data.card["splits"]["train"]["rows"])[1]),
            device=str(probe_device(training.use_cpu)),
            data={"path": str(data.path), "fingerprint": data.fingerprint, "splits": data.card["splits"]},
            tokenizer=data.card["tokenizer"],
            processes=world_size(),
        )
        with tracker_environment(training.report_to, run):
            yield run
    except BaseException as error:
        close_bars()
        told = end_run(run, config, mirror, error)
        if told is not None and told is not error:
            raise told from error
        raise
    else:
        failure = end_run(run, config, mirror, None)
        if failure is not None:
            raise failure
    finally:
        if config.run.html_report and rank() == 0 and not stop_signals.insisted:
            refresh_report(path)
        mirroring.close(mirror)
        remove_log_file(handler)
        rank_zero_first().clear()


def _keep_time(run: RunFolder, config: RunConfig, data: PreparedDataset) -> None:
    """With ``--deadline``, hang up what ends the training in time."""
    deadline, seconds = config.deadline, config.deadline.seconds()
    if seconds is None:
        return
    if run.checkpoint is not None:
        known = read_json(run.checkpoint / "trainer_state.json").get("log_history") or []
        deadline.earlier = next((entry["run_seconds"] for entry in reversed(known) if "run_seconds" in entry), 0.0)
    splits, most = data.card["splits"], config.data.max_eval_samples
    rows = {name: min(split["rows"], most or split["rows"]) for name, split in splits.items()}
    share = rows.get("test", 0) / max(rows.get("validation", 0), 1)
    foretold = (max(deadline.end_seconds, FINISH_SECONDS), deadline.step_seconds)
    run.callbacks.append(Deadline(seconds, deadline.begun, deadline.evaluations, share, foretold))


def _find(path: Path, config: RunConfig) -> str | None:
    """The checkpoint to go on from, here or in the store."""
    settings, here = config.checkpoint, mirroring.wanted_here(config.run.resume or "newest")
    local, failure = None, None
    try:
        if here is not None:
            local = find_checkpoint(path, here, True, settings.allow_fresh_optimizer, config.training.fp16)
    except CheckpointError as error:
        if here != "newest":
            raise
        failure = error
    found = mirroring.restore(config, path, local)
    if found is None and failure is not None:
        raise failure
    if found is not None and found != local:
        find_checkpoint(path, found.name, True, settings.allow_fresh_optimizer, config.training.fp16)
    return str(found) if found else None


def _refuse_drift(run: RunFolder, config: RunConfig, data: PreparedDataset) -> None:
    """What differs from the interrupted run must have been named to be accepted."""
    if run.checkpoint is None:
        return
    # A checkpoint of another run may be gone on with in a new folder.
    known = next((place / RUN_RECORD for place in (run.checkpoint.parent, run.path) if (place / RUN_RECORD).exists()), None)
    if known is None:
        return
    record, args, settings = read_json(known), config.training, settings_of(config)
    before = record["config"]["training"]
    found: dict[str, tuple[Any, Any]] = {}
    if record["data"]["fingerprint"] != data.fingerprint:
        found["data"] = (record["data"]["path"], data.path)
    if record["tokenizer"].get("hash") != data.card["tokenizer"].get("hash"):
        found["tokenizer"] = (record["tokenizer"].get("hash"), data.card["tokenizer"].get("hash"))
    own = [name for name in ("model", "finetune", "lora") if name in settings]
    for name in own:
        found |= differences(record["config"].get(name, {}), settings[name])
    found |= differences(before, training_settings(settings["training"]))
    found |= differences({"precision": _precision(before)}, {"precision": _precision(settings["training"])})
    step_rows = before["per_device_train_batch_size"] * before["gradient_accumulation_steps"] * record["processes"]
    found |= differences({"per_device_train_batch_size": step_rows}, {"per_device_train_batch_size": plan_steps(args, 1)[0]})
    # What a preset stands for may have changed since; dropout is the part that no tensor shows.
    saved = read_json(run.checkpoint / "config.json") if (run.checkpoint / "config.json").exists() else {}
    dropouts = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout")
    built = shape_of(config, 1)
    found |= differences(saved, {name: getattr(built, name) for name in dropouts if hasattr(built, name)})
    refuse_drift(
        str(run.path),
        found,
        config.checkpoint.accept_changes,
        {*settings["training"], *(key for name in own for key in settings[name])},
    )


def _precision(training: Mapping[str, Any]) -> str:
    return "bf16" if training.get("bf16") else "fp16" if training.get("fp16") else "fp32"


def plan_steps(args: ForgeTrainingArguments, rows: int) -> tuple[int, int]:
    """Rows of one optimizer step, and steps of the whole run."""
    step_rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size()
    if args.max_steps > 0:
        return step_rows, args.max_steps
    return step_rows, math.ceil(args.num_train_epochs * math.ceil(rows / step_rows))


def announce(config: RunConfig, data: PreparedDataset) -> None:
    """Show what will run and on what, and warn where the device's memory is short for it."""
    if rank() == 0:  # the attention's line tries a kernel, which is one process's to do
        # What `--deadline --dry_run` chooses is YAML to keep: with `> FILE` nothing else goes there.
        show(describe(config, data), aside=config.dry_run and config.deadline.deadline is not None)
    _tell_memorising(config, data)
    device, setup = probe_device(config.training.use_cpu), _setup(config, data)
    room = device.memory // _sharing(device)
    if estimate(setup).peak > room:
        fits = largest_rows(setup, setup.batch.rows * setup.accumulation, room)
        way = (
            f"Give --per_device_train_batch_size {fits} --gradient_accumulation_steps "
            f"{setup.batch.rows * setup.accumulation // fits}: the same steps in less memory."
            if fits
            else "Take a smaller --preset, or --activation_checkpointing and a shorter --block_size."
        )
        logger.warning(
            "memory is short: a step takes about %s of the %s of %s. %s",
            format_bytes(estimate(setup).peak * _sharing(device)),
            format_bytes(device.memory),
            device.name,
            way,
        )


def _tell_memorising(config: RunConfig, data: PreparedDataset) -> None:
    """Say where a model is far too large for its corpus: the default preset for a folder of notes, say."""
    tokens, vocabulary = data.card["splits"]["train"]["tokens"], data.card["tokenizer"]["vocab_size"]
    if not isinstance(config, PretrainConfig) or config.deadline.deadline is not None:
        return
    parameters = count_parameters(shape_of(config, vocabulary))
    if tokens < _HARDLY_ANY * parameters:
        logger.info(
            "note: %s training tokens for %s parameters, which will learn them by heart; --deadline 30m in place of --preset "
            "chooses a model by its corpus",
            *(f"{tokens:,}", f"{parameters:,}"),
        )


def _setup(config: RunConfig, data: PreparedDataset) -> Setup:
    """What the memory of one process depends on, as `llmforge plan` counts it."""
    training = config.training
    device, vocabulary = probe_device(training.use_cpu), data.card["tokenizer"]["vocab_size"]
    return setup_for(config, vocabulary, device, _precision(vars(training)), world_size(), wants_sharding(training))


def _planned(config: RunConfig, steps: int) -> int | None:
    """Of these, what the run will take; None where the time may end it sooner."""
    counted = 0 < config.training.max_steps < UNBOUNDED
    return None if config.deadline.deadline is not None and not counted else steps


def _step_count(config: RunConfig, steps: int) -> str:
    seconds = config.deadline.seconds()
    if seconds is None or _planned(config, steps):
        return f"{steps:,}"
    left = format_seconds(max(seconds - config.deadline.earlier - (time.monotonic() - config.deadline.begun), 0.0))
    bound = f"at most {steps:,}, " if steps < UNBOUNDED else ""
    return f"{bound}as many as fit into the {left} that are left, evaluation and saving included,"


def _memory_line(setup: Setup, short: bool) -> str:
    memory = estimate(setup)
    counted = "" if is_known(setup.optim) else ", counted as AdamW"
    name = {"muon": "Muon", "adamw_torch_fused": "AdamW", "adamw_torch": "AdamW"}.get(setup.optim, setup.optim) + counted
    state = format_bytes(memory.weights + memory.gradients + memory.optimizer)
    activations = f"{format_bytes(memory.activations)} for the activations of {setup.batch.rows} rows"
    room = ": short, see the warning" if short else ""
    return f"{state} for weights, gradients and {name}, {activations}; about {format_bytes(memory.peak)} at the peak{room}"


def _sharing(device: Device) -> int:
    """Processes of this launch that live in the same memory: all of a machine's on the CPU, one on a GPU."""
    return local_world_size() if device.kind == "cpu" else 1


def describe(config: RunConfig, data: PreparedDataset) -> Any:
    """What will run and on what, as a rich table."""
    import torch
    from rich.table import Table
    from rich.text import Text

    from llmforge.attention import choose_attention

    vocabulary = data.card["tokenizer"]["vocab_size"]
    model_config = shape_of(config, vocabulary)
    splits = data.card["splits"]
    step_rows, steps = plan_steps(config.training, data.card["splits"]["train"]["rows"])
    precision = "bf16" if config.training.bf16 else "fp16" if config.training.fp16 else "fp32"
    device = probe_device(config.training.use_cpu)
    place = (
        torch.device("cuda", local_rank() % max(torch.cuda.device_count(), 1))
        if device.kind in _GPUS
        else torch.device(device.kind)
    )
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    attention = choose_attention(config.training.packed_attention, model_config, place, half)
    setup = _setup(config, data)
    short = estimate(setup).peak * _sharing(device) > device.memory
    train = splits["train"]
    documents = ", ".join(f"{name} {split['documents']:,}" for name, split in splits.items())
    table = Table(show_header=False, title="Run", title_justify="left", box=None, pad_edge=False)
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    rows = {
        "device": f"{device}, {precision}{processes}",
        "model": about(config, model_config, vocabulary),
        "memory": _memory_line(setup, short),
        "attention": attention.line,
        "data": f"documents: {documents}; {train['tokens']:,} training tokens in {train['rows']:,} rows of {data.block_size}",
        "steps": f"{_step_count(config, steps)} of {step_rows * data.block_size:,} tokens ({step_rows} rows)",
        "folder": config.training.output_dir or f"{RUNS_ROOT}/{config.name}-NNN",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table
