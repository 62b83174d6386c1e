"""From a run's configuration to what its memory depends on."""

from __future__ import annotations

from llmforge.configs.run import RunConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.planning.activations import Batch
from llmforge.planning.memory import Setup, chosen_attention
from llmforge.planning.shapes import shape_from
from llmforge.runtime.devices import Device
from llmforge.tuning.shape import shape_of, trained_parameters


def optimizer_name(training: ForgeTrainingArguments) -> str:
    """``--optim`` as a word."""
    return str(getattr(training.optim, "value", training.optim))


def checkpointed_every(training: ForgeTrainingArguments) -> int:
    """Of how many layers one keeps only its input; 0 without ``--activation_checkpointing``."""
    if not (training.activation_checkpointing or training.gradient_checkpointing):
        return 0
    given = training.activation_checkpointing_kwargs or training.gradient_checkpointing_kwargs or {}
    return max(int(given.get("every_n_layers", 1)), 1) if isinstance(given, dict) else 1


def setup_for(
    config: RunConfig, vocabulary: int, device: Device, precision: str, processes: int = 1, sharded: bool = False
) -> Setup:
    """What the memory of the run that `config` describes depends on.

    Args:
        config: Of the run.
        vocabulary: Entries of its tokenizer.
        device: That it trains on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        processes: That train together.
        sharded: By FSDP, instead of DDP; Muon, which needs whole matrices, gives way to AdamW.
    """
    training = config.training
    model = shape_of(config, vocabulary)
    shape = shape_from(model)
    half = precision != "fp32"
    batch = Batch(
        rows=training.per_device_train_batch_size,
        length=config.data.block_size,
        half=half,
        attention=chosen_attention(training.packed_attention, device.kind, half, shape.attention_dropout),
        gpu=device.kind != "cpu",
        checkpointed=checkpointed_every(training),
    )
    trained = trained_parameters(config, model)
    return Setup(
        shape=shape,
        batch=batch,
        accumulation=training.gradient_accumulation_steps,
        optim="adamw_torch_fused" if sharded and training.optim == "muon" else optimizer_name(training),
        fp16=precision == "fp16",
        lean=training.lean_loss,
        processes=processes,
        sharded=sharded,
        snapshot=config.checkpoint.async_save and str(getattr(training.save_strategy, "value", training.save_strategy)) != "no",
        evaluation_rows=training.per_device_eval_batch_size,
        trained=None if trained == shape.parameters else trained,
    )
