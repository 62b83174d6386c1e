"""``--auto_batch``: the micro-batch that fits, chosen at the start and halved where memory runs out after all.

The rows of an optimizer step stay what they are, and so does what is learnt: rows are dealt out by the step, and
losses are divided by the targets of the step (tests/test_same_training.py). Trainer's own
``--auto_find_batch_size`` shrinks the step and starts over.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from llmforge.callbacks.micro_batch import MicroBatch
from llmforge.checkpoints.manifest import checkpoint_step
from llmforge.checkpoints.resume import find_checkpoint
from llmforge.configs.run import RunConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import PreparedDataset
from llmforge.errors import ConfigError
from llmforge.planning.memory import estimate, largest_rows
from llmforge.planning.optimizer_state import state_bytes
from llmforge.planning.requirements import optimizer_name, setup_for
from llmforge.planning.shapes import shape_from
from llmforge.runtime.devices import available_memory, format_bytes, probe_device
from llmforge.runtime.launch import local_world_size, rank_zero_first, world_size
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import RUN_RECORD, RunFolder
from llmforge.sharding import wants_sharding
from llmforge.storage.records import read_json
from llmforge.trainer import ForgeTrainer

#: Of the memory that is free at the start, what a training is planned to take at most: other programs may want some too.
_SHARE = 0.9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device has no memory left, as torch says it for each kind of device."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def smaller_rows(rows: int, step_rows: int) -> int | None:
    """The largest micro-batch of at most half of `rows` that divides the rows of a step; None below one row."""
    return next((size for size in range(rows // 2, 0, -1) if step_rows % size == 0), None)


def choose_batch(config: RunConfig, data: PreparedDataset) -> None:
    """Set micro-batch and accumulation in `config` to the largest that fits, by the plan; their product stays.

    Raises:
        ConfigError: Not even one row at a time fits.
    """
    training, run = config.training, config.run
    if not run.auto_batch:
        return
    share = training.per_device_train_batch_size * training.gradient_accumulation_steps
    device = probe_device(training.use_cpu)
    precision = "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    setup = setup_for(config, data.card["tokenizer"]["vocab_size"], device, precision, world_size(), wants_sharding(training))
    # Of a CPU's memory each process of the machine takes its part; asked once, so that all find the same.
    sharing = local_world_size() if device.kind == "cpu" else 1
    room = int(rank_zero_first()(lambda: available_memory(training.use_cpu)) * _SHARE) // sharing
    rows = largest_rows(setup, share, room)
    if not rows:
        raise ConfigError(
            f"--auto_batch: {format_bytes(room)} are free, and one row at a time takes "
            f"{format_bytes(estimate(setup.with_rows(1, share)).peak)}.",
            "Give --activation_checkpointing, a shorter --block_size or a smaller --preset.",
        )
    _set(training, rows, share)
    logger.info(
        "auto batch: micro-batches of %d rows, %d a step; about %s of the %s that are free",
        rows,
        share // rows,
        format_bytes(estimate(setup.with_rows(rows, share // rows)).peak),
        format_bytes(room),
    )


def _set(training: ForgeTrainingArguments, rows: int, step_rows: int) -> None:
    training.per_device_train_batch_size, training.gradient_accumulation_steps = rows, step_rows // rows
    training.per_device_eval_batch_size = min(training.per_device_eval_batch_size, max(rows, 1))


def train_fitting(build: Callable[[], ForgeTrainer], config: RunConfig, run: RunFolder) -> ForgeTrainer:
    """Train; with ``--auto_batch`` an out-of-memory goes on from the last commit with half the micro-batch.

    Each time the model is built anew, so that nothing of a step that broke off is left. On several processes, of which
    one alone may run out, it ends as without the flag; they all take what fits the one with the least memory.

    Args:
        build: Makes model and trainer from `config`.
        config: Of the run; micro-batch and accumulation are changed in it.
        run: Its folder; ``run.json`` keeps every choice under ``batches``, also those before a ``--resume``.

    Raises:
        ConfigError: Whatever `ForgeTrainer.train` raises, and out of memory where there is nothing left to halve.
    """
    training = config.training
    share = training.per_device_train_batch_size * training.gradient_accumulation_steps
    checkpoint = run.checkpoint
    batches: list[dict[str, Any]] = []
    first = True
    while True:
        trainer = build()
        if not config.run.auto_batch:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            return trainer
        if first:
            batches = _earlier(run)
            sharded = wants_sharding(trainer.args)  # then the model is not on the device before it is spread
            _agree(trainer, training.per_device_train_batch_size, share)
            if trainer.args.device.type == "cuda" and not sharded:
                _probe(trainer, share)
        first = False
        trainer.callback_handler.callbacks.insert(0, MicroBatch())
        step = checkpoint_step(checkpoint) if checkpoint else 0
        batches.append(
            {
                "from_step": step,
                "per_device_train_batch_size": training.per_device_train_batch_size,
                "gradient_accumulation_steps": training.gradient_accumulation_steps,
            }
        )
        run.write_record(batches=batches)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            return trainer
        except Exception as error:
            fewer = smaller_rows(training.per_device_train_batch_size, share)
            if not is_out_of_memory(error) or fewer is None or world_size() > 1:
                raise
            at = trainer.state.global_step
        # Outside of the handler, which would keep the step's tensors.
        del trainer
        _free()
        checkpoint = find_checkpoint(run.path, scaler=training.fp16) or checkpoint
        logger.warning(
            "out of memory after step %d with micro-batches of %d rows: going on from %s with %d, %d a step",
            at,
            training.per_device_train_batch_size,
            checkpoint.name if checkpoint else "the start",
            fewer,
            share // fewer,
        )
        training.eval_on_start = training.eval_on_start and checkpoint is None
        _set(training, fewer, share)


def _earlier(run: RunFolder) -> list[dict[str, Any]]:
    """What the starts of this run before this one chose."""
    path = run.path / RUN_RECORD
    return list(read_json(path).get("batches") or []) if path.exists() else []


def _agree(trainer: ForgeTrainer, rows: int, share: int) -> None:
    """Set the micro-batch to the least that any process proposes: machines differ in what is free, and GPUs too."""
    args = trainer.args
    agreed = int(trainer.accelerator.gather(torch.tensor([rows], device=trainer.accelerator.device)).min())
    if agreed != args.per_device_train_batch_size:
        logger.info("auto batch: %d rows do not fit everywhere, %d do", args.per_device_train_batch_size, agreed)
    _set(args, agreed, share)
    trainer._train_batch_size = args.train_batch_size


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _probe(trainer: ForgeTrainer, share: int) -> None:
    """A forward and a backward pass at the chosen micro-batch, beside as much memory as the optimizer will take; halved in
    `trainer` until it passes. Ranks agree on the least. Not under FSDP, where the model is still on the CPU: there the plan
    alone decides. On a GPU, not tried on hardware."""
    args, model = trainer.args, trainer.model
    rows, length = args.per_device_train_batch_size, len(trainer.train_dataset[0]["input_ids"])
    size = state_bytes(optimizer_name(args), shape_from(model.config))
    collate, device = PackedCollator(), args.device
    with torch.random.fork_rng():  # dropout's numbers are the training's
        while True:
            try:
                held: Any = torch.empty(size, dtype=torch.uint8, device=device)
                inputs: Any = collate([trainer.train_dataset[index % len(trainer.train_dataset)] for index in range(rows)])
                inputs = {name: value.to(device) for name, value in inputs.items()}
                model.train()
                with trainer.compute_loss_context_manager():
                    loss: Any = model(**inputs, num_items_in_batch=rows * length).loss
                loss.backward()
                del held, loss, inputs
                break
            except Exception as error:
                fewer = smaller_rows(rows, share)
                if not is_out_of_memory(error) or fewer is None:
                    raise
                rows = fewer
            held = loss = inputs = None
            model.zero_grad(set_to_none=True)
            _free()
    model.zero_grad(set_to_none=True)
    _free()
    _agree(trainer, rows, share)
