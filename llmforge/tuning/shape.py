"""The shape of the model that a run will train, before there is one."""

from __future__ import annotations

import copy
from typing import Any

from llmforge.configs.finetune import DROPOUTS, FinetuneConfig
from llmforge.configs.run import PretrainConfig, RunConfig
from llmforge.errors import ConfigError
from llmforge.models import build_config, count_parameters, embedding_rows


def shape_of(config: RunConfig, vocabulary: int) -> Any:
    """The Hugging Face config of the model that `config` trains, for a tokenizer of so many entries."""
    if isinstance(config, FinetuneConfig):
        shape = copy.deepcopy(config.base)
        if vocabulary > shape.vocab_size and not config.lora.lora:  # adapters leave the embeddings as they are
            shape.vocab_size = embedding_rows(vocabulary)
        if config.finetune.dropout is not None:
            for name in DROPOUTS[shape.model_type]:
                setattr(shape, name, config.finetune.dropout)
        return shape
    assert isinstance(config, PretrainConfig)
    return build_config(config.model, embedding_rows(vocabulary))


def trained_parameters(config: RunConfig, shape: Any) -> int:
    """How many parameters are trained: all, or those of the adapters.

    Raises:
        ConfigError: The model has no layer that ``--lora_targets`` names.
    """
    if not isinstance(config, FinetuneConfig) or not config.lora.lora:
        return count_parameters(shape)
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    total = 0
    for target in config.lora.targets(shape.model_type):
        weights = [
            module.weight
            for name, module in model.named_modules()
            if (name == target or name.endswith(f".{target}")) and getattr(module, "weight", None) is not None
        ]
        if not weights or any(weight.ndim != 2 for weight in weights):
            known = sorted(
                {name.rpartition(".")[2] for name, part in model.named_modules() if type(part).__name__ in ("Linear", "Conv1D")}
            )
            raise ConfigError(
                f"--lora_targets {target}: the model has no linear layer of that name.", f"Known: {', '.join(known)}."
            )
        total += sum(config.lora.lora_r * sum(weight.shape) for weight in weights)
    return total


def about(config: RunConfig, shape: Any, vocabulary: int) -> str:
    """The model in one line."""
    total = count_parameters(shape)
    size = f"{total:,} parameters at {vocabulary:,} vocabulary entries"
    if not isinstance(config, FinetuneConfig):
        assert isinstance(config, PretrainConfig)
        return f"{config.model.preset}: {size}"
    line = f"{config.finetune.from_pretrained}: {size}"
    if config.lora.lora:
        trained = trained_parameters(config, shape)
        line += f", {trained:,} ({trained / total:.2%}) trained by LoRA of rank {config.lora.lora_r}"
    return line
