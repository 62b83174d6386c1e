"""A choice for a deadline as the flags of a run."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmforge.configs.model import FIELDS
from llmforge.configs.run import PretrainConfig
from llmforge.models import PRESETS, build_config, check_block_size, get_preset
from llmforge.planning.corpus import CorpusSize
from llmforge.planning.dial import MOST_EPOCHS, Choice, Pinned
from llmforge.planning.memory import largest_rows
from llmforge.planning.requirements import setup_for
from llmforge.runtime.devices import Device, available_memory
from llmforge.runtime.launch import local_world_size, world_size
from llmforge.tokenization import load_pretrained

#: Rows of a micro-batch on a CPU, which more do not make faster, and the share of the free memory that they may take.
_CPU_ROWS, _MEMORY_SHARE = 16, 0.8


class _Names(NamedTuple):
    """How an architecture calls layers, width and heads, the longest row and dropout, and what is set besides."""

    sizes: tuple[str, str, str]
    positions: str
    dropout: tuple[str, ...]
    always: dict[str, Any]


_NAMES = {
    "GPT-2": _Names(("n_layer", "n_embd", "n_head"), "n_positions", ("resid_pdrop", "embd_pdrop"), {}),
    "GPT-NeoX": _Names(
        ("num_hidden_layers", "hidden_size", "num_attention_heads"),
        "max_position_embeddings",
        ("hidden_dropout",),
        {"tie_word_embeddings": True, "rotary_pct": 1.0},
    ),
}


def pinned_by(config: PretrainConfig, given: set[str], size: CorpusSize) -> Pinned:
    """What is not to be chosen.

    Raises:
        ConfigError: The model that was named does not exist, or its positions are fewer than a row has.
    """
    base = get_preset(_base(config, given))
    shape, longest = None, getattr(config.model, _NAMES[base.family].positions)
    block_size = size.block_size if size.counted or "block_size" in given else None
    if names_model(given):
        model = build_config(dataclasses.replace(config.model, preset=_base(config, given)), base.vocab_size)
        shape, longest = (model.num_hidden_layers, model.hidden_size), model.max_position_embeddings
        check_block_size(model, block_size)
    training = config.training
    step = {"per_device_train_batch_size", "gradient_accumulation_steps"} & given
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size()
    vocabulary = config.tokenizer.vocab_size if "vocab_size" in given else size.vocabulary
    if vocabulary is None and config.tokenizer.tokenizer is not None:
        vocabulary = len(load_pretrained(config.tokenizer.tokenizer))
    epochs = math.inf if "max_steps" in given else training.num_train_epochs if "num_train_epochs" in given else None
    return Pinned(shape, vocabulary, block_size, longest, rows if step else None, epochs)


def names_model(given: set[str]) -> bool:
    sizes = ("preset", "n_layer", "n_embd", "n_head", "n_inner", "num_hidden_layers", "hidden_size", "num_attention_heads")
    return bool(given & {*sizes, "intermediate_size"})


def _base(config: PretrainConfig, given: set[str]) -> str:
    """The preset that the user's sizes change, and the architecture where there are none.

    GPT-NeoX learned more in the same time (docs/how-to/choosing.md); a field of GPT-2's own asks for that one.
    """
    if "preset" in given:
        return config.model.preset
    return "gpt2-10m" if given & set(FIELDS["GPT-2"]) else "neox-10m"


def flags_of(config: PretrainConfig, choice: Choice, given: set[str], device: Device, precision: str) -> dict[str, Any]:
    """The flags of a choice that the user has not given."""
    base = _base(config, given)
    fields = {"preset": base} if names_model(given) else _model(choice, PRESETS[base].family)
    if config.data.dataset_dir is None:
        fields |= {"block_size": choice.block_size}
        fields |= {"vocab_size": choice.vocabulary} if config.tokenizer.tokenizer is None else {}
    if not {"lr_scheduler_kwargs", "min_lr_ratio", "decay_ratio"} & given:  # which are of another schedule
        fields |= {"lr_scheduler_type": "linear"}
    if not {"max_steps", "num_train_epochs"} & given:
        fields |= {"num_train_epochs": MOST_EPOCHS}
    fields |= {"max_eval_samples": choice.evaluation_rows}
    fields |= {"logging_steps": min(max(int(choice.tokens / choice.step_tokens / 100), 1), 10)}
    share = choice.step_rows // world_size()
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & given:
        setup = setup_for(with_flags(config, fields), choice.vocabulary, device, precision, world_size())
        sharing = local_world_size() if device.kind == "cpu" else 1
        room = int(available_memory(config.training.use_cpu) * _MEMORY_SHARE) // sharing
        most = largest_rows(setup, share, room) or 1
        while device.kind == "cpu" and most > _CPU_ROWS and most % 2 == 0:
            most //= 2
        fields |= {"per_device_train_batch_size": most, "gradient_accumulation_steps": share // most}
        fields |= {"per_device_eval_batch_size": min(most, 8)}
        if device.kind != "cpu":
            fields |= {"auto_batch": True}
    return {name: value for name, value in fields.items() if name not in given}


def _model(choice: Choice, family: str) -> dict[str, Any]:
    """The preset of these sizes, or the nearest one with other sizes."""
    of_family = {name: preset for name, preset in PRESETS.items() if preset.family == family}
    exact = [name for name, preset in of_family.items() if (preset.layers, preset.width) == (choice.layers, choice.width)]
    near = min(
        exact or of_family,
        key=lambda name: abs(math.log(choice.weights / (12 * PRESETS[name].layers * PRESETS[name].width ** 2))),
    )
    names = _NAMES[family]
    fields: dict[str, Any] = {"preset": near}
    if not exact:
        fields |= dict(zip(names.sizes, (choice.layers, choice.width, choice.heads), strict=True))
    if PRESETS[near].positions != choice.block_size:  # others would never be seen
        fields |= {names.positions: choice.block_size}
    if choice.dropout:
        fields |= dict.fromkeys(names.dropout, choice.dropout)
    return fields | names.always


def with_flags(config: PretrainConfig, fields: Mapping[str, Any]) -> PretrainConfig:
    """A copy of `config` with these fields."""
    made = copy.copy(config)
    for part in ("model", "tokenizer", "data", "training", "run"):
        setattr(made, part, copy.copy(getattr(config, part)))
    apply_flags(made, fields)
    return made


def apply_flags(config: PretrainConfig, fields: Mapping[str, Any]) -> None:
    parts = (config.model, config.tokenizer, config.data, config.training, config.run)
    for name, value in fields.items():
        if name == "lr_scheduler_type":
            config.training.set_schedule(value)
            continue
        setattr(next(part for part in parts if hasattr(part, name)), name, value)
