"""One plan: memory, speed, time and disk of a training on a device."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from llmforge.configs.run import RunConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.errors import ConfigError
from llmforge.planning.corpus import CorpusSize
from llmforge.planning.memory import Memory, Setup, estimate, largest_rows
from llmforge.planning.requirements import setup_for
from llmforge.planning.speed import Speed
from llmforge.runtime.devices import Device

#: Files of a checkpoint besides its tensors: tokenizer, state and metadata, about.
_SMALL_FILES = 4 * 2**20
#: An evaluation makes no gradients: a third of the operations.
_EVALUATION_SHARE = 1 / 3


@dataclass(frozen=True)
class Duration:
    """How long a training takes.

    Attributes:
        steps: Optimizer steps.
        tokens: Trained on, padding included.
        epochs: Passes over the corpus; None without one.
        training_seconds: Of the steps.
        evaluation_seconds: Of the evaluations among them, as far as the corpus is known.
    """

    steps: int
    tokens: int
    epochs: float | None
    training_seconds: float
    evaluation_seconds: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training_seconds + self.evaluation_seconds


@dataclass(frozen=True)
class Plan:
    """What a training on a device will take.

    Attributes:
        preset: Name of the model.
        setup: Of one process.
        memory: Of one process, with the micro-batch of `setup`.
        step_rows: Rows of an optimizer step over all processes.
        largest_rows: The largest micro-batch that fits and divides the rows of a step; 0 where not even one row does.
        speed: With `setup`, None where the device is not known.
        duration: Of the whole training, None where the speed or the number of steps is not known.
        deadline_steps: Optimizer steps that fit into the deadline; None without one.
        checkpoint_bytes: Of one checkpoint.
        disk_bytes: That the run leaves, and needs while it writes: checkpoints as they are kept, one more, and ``final/``.
        upload_bytes: Sent to the store by the end; None without one.
    """

    preset: str
    setup: Setup
    memory: Memory
    step_rows: int
    largest_rows: int
    speed: Speed | None
    duration: Duration | None
    deadline_steps: int | None
    checkpoint_bytes: int
    disk_bytes: int
    upload_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        parts = {name: value for name, value in asdict(self.memory).items() if name != "moments"}
        return {
            "preset": self.preset,
            "parameters": self.setup.shape.parameters,
            "micro_batch": self.setup.batch.rows,
            "accumulation": self.setup.accumulation,
            "effective_batch_size": self.step_rows,
            "block_size": self.setup.batch.length,
            "optim": self.setup.optim,
            "attention": self.setup.batch.attention,
            "memory": {**parts, "moments": self.memory.moments, "peak": self.memory.peak, "at": self.memory.moment},
            "largest_micro_batch": self.largest_rows,
            "speed": self.speed and asdict(self.speed),
            "duration": self.duration and {**asdict(self.duration), "seconds": self.duration.seconds},
            "deadline_steps": self.deadline_steps,
            "checkpoint_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "upload_bytes": self.upload_bytes,
        }


def rows_of_a_step(training: ForgeTrainingArguments, wanted: int | None, processes: int) -> int:
    """Rows of an optimizer step over all processes: what a launch with these flags takes, or `wanted`, which they share.

    Raises:
        ConfigError: They cannot share it evenly.
    """
    if wanted is None:
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes
    if wanted % processes:
        near = wanted // processes * processes
        close = f"{near} or {near + processes}" if near else f"{processes}"
        raise ConfigError(
            f"--effective_batch_size {wanted} cannot be shared evenly by --num_processes {processes}.",
            f"Give --effective_batch_size {close}, or other processes.",
        )
    return wanted


def step_count(training: ForgeTrainingArguments, corpus: CorpusSize | None, step_rows: int) -> int | None:
    """Optimizer steps that the settings ask for; None where they ask for epochs of an unknown corpus."""
    if training.max_steps > 0:
        return training.max_steps
    if corpus is None:
        return None
    return math.ceil(training.num_train_epochs * math.ceil(corpus.rows / step_rows))


def every(rhythm: float | None, strategy: Any, steps: int, an_epoch: int | None) -> int:
    """How often something happens in so many steps that is done every `rhythm` steps, or every share of all of them."""
    name = str(getattr(strategy, "value", strategy))
    if name == "no" or not steps:
        return 0
    if name == "epoch":
        return -(-steps // an_epoch) if an_epoch else 1  # one that breaks off ends too
    size = math.ceil(rhythm * steps) if rhythm and rhythm < 1 else int(rhythm or 500)
    return max(-(-steps // size), 1)


def make_plan(
    config: RunConfig,
    preset: str,
    vocabulary: int,
    device: Device,
    precision: str,
    *,
    processes: int = 1,
    sharded: bool = False,
    step_rows: int,
    corpus: CorpusSize | None = None,
    speed: Speed | None = None,
    deadline: float | None = None,
    fit_rows: bool = False,
) -> Plan:
    """The plan of the run that `config` describes.

    Args:
        config: Of the run; its model is the one planned for.
        preset: What to call that.
        vocabulary: Entries of the tokenizer.
        device: To train on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        processes: That train together.
        sharded: By FSDP.
        step_rows: Rows of an optimizer step over all processes.
        corpus: To train on, if known.
        speed: If known.
        deadline: Seconds for the whole run.
        fit_rows: Take the largest micro-batch that fits instead of the one in `config`.
    """
    training, settings = config.training, config.checkpoint
    setup = setup_for(config, vocabulary, device, precision, processes, sharded)
    share = step_rows // processes
    room = device.memory // processes if device.kind == "cpu" else device.memory  # which all of a CPU's share
    fits = largest_rows(setup, share, room)
    rows = fits if fit_rows and fits else min(training.per_device_train_batch_size, share)
    while share % rows:
        rows -= 1
    setup = setup.with_rows(rows, share // rows)
    memory = estimate(setup)
    steps = step_count(training, corpus, step_rows)
    step_tokens = step_rows * setup.batch.length
    an_epoch = math.ceil(corpus.rows / step_rows) if corpus else None
    fitting = None
    if deadline is not None and speed is not None:
        fitting = _fitting_steps(config, corpus, speed, deadline, step_tokens / speed.tokens_per_second, an_epoch)
        steps = fitting if steps is None else steps
    duration = None
    if steps is not None and speed is not None:
        evaluated = every(training.eval_steps, training.eval_strategy, steps, an_epoch)
        duration = Duration(
            steps,
            steps * step_tokens,
            steps / an_epoch if an_epoch else None,
            steps * step_tokens / speed.tokens_per_second,
            _evaluation_seconds(config, corpus, speed, evaluated) + _start_seconds(config, corpus, speed),
        )
    checkpoint = memory.weights * (processes if sharded else 1) + memory.optimizer * (processes if sharded else 1) + _SMALL_FILES
    saves = every(training.save_steps, training.save_strategy, steps or 0, an_epoch)
    kept = min(training.save_total_limit or saves, saves) if steps else training.save_total_limit or 1
    final = 4 * setup.shape.parameters + _SMALL_FILES
    writing = 1 if settings.async_save or saves > kept else 0
    return Plan(
        preset,
        setup,
        memory,
        step_rows,
        fits,
        speed,
        duration,
        fitting,
        checkpoint,
        checkpoint * (kept + writing) + final,
        saves * checkpoint + final if config.remote.remote else None,
    )


def _fitting_steps(
    config: RunConfig, corpus: CorpusSize | None, speed: Speed, deadline: float, each: float, an_epoch: int | None
) -> int:
    """Steps of `each` seconds that fit into the deadline with the evaluations that a run of so many has."""
    training, room = config.training, max(deadline - _start_seconds(config, corpus, speed), 0.0)

    def fits(steps: int) -> bool:
        evaluations = every(training.eval_steps, training.eval_strategy, steps, an_epoch)
        return steps <= int((room - _evaluation_seconds(config, corpus, speed, evaluations)) / each)

    most, least = int(room / each) + 1, 0  # the first does not fit, the second does
    while most - least > 1:
        middle = (most + least) // 2
        most, least = (most, middle) if fits(middle) else (middle, least)
    return least


def _evaluation_seconds(config: RunConfig, corpus: CorpusSize | None, speed: Speed, times: int) -> float:
    if corpus is None:
        return 0.0
    most = config.data.max_eval_samples
    tokens = min(corpus.validation_tokens, most * config.data.block_size) if most else corpus.validation_tokens
    return times * tokens * _EVALUATION_SHARE / speed.tokens_per_second


def _start_seconds(config: RunConfig, corpus: CorpusSize | None, speed: Speed) -> float:
    """Of the evaluation before the first step."""
    return _evaluation_seconds(config, corpus, speed, 1) if config.training.eval_on_start else 0.0
