"""From ``--optim`` to an optimizer, and what must be there for it.

Muon is ours; every other name is Trainer's own, and is made by it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from llmforge.configs.training import MUON_ADAMW_SHARE, ForgeTrainingArguments
from llmforge.errors import ConfigError
from llmforge.muon import Muon
from llmforge.runtime.devices import probe_device
from llmforge.runtime.logs import logger
from llmforge.sharding import OPTIMIZERS as SHARDED
from llmforge.sharding import wants_sharding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: By the start of an optimizer's name: what to install for it, and the modules that must be there.
_EXTRA = "llmforge[optimizers]"
_PACKAGES: dict[str, tuple[str, ...]] = {
    "adamw_bnb": (_EXTRA, "bitsandbytes"),
    "adamw_8bit": (_EXTRA, "bitsandbytes"),
    "ademamix": (_EXTRA, "bitsandbytes"),
    "lion": (_EXTRA, "bitsandbytes"),
    "paged": (_EXTRA, "bitsandbytes"),
    "rmsprop_bnb": (_EXTRA, "bitsandbytes"),
    "galore": (_EXTRA, "galore_torch", "bitsandbytes"),  # the one imports the other
    "apollo": (_EXTRA, "apollo_torch", "bitsandbytes"),
    "schedule_free": (_EXTRA, "schedulefree"),
    "lomo": ("lomo-optim", "lomo_optim"),
    "adalomo": ("lomo-optim", "lomo_optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("torch-optimi", "optimi"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_xla": ("torch_xla", "torch_xla"),
    "adamw_torch_npu": ("torch_npu", "torch_npu"),
}
#: By the start of a name: classes of its package that its saved state holds, besides tensors. Plain objects with tensors in
#: them; without leave torch does not read them back, and Trainer could not resume.
_IN_STATE = {
    "galore": ("galore_torch.galore_projector.GaLoreProjector",),
    "apollo": ("apollo_torch.svd_projector.GaLoreProjector", "apollo_torch.random_projector.GradientProjector"),
}


def check_optimizer(args: ForgeTrainingArguments, model_type: str | None = None) -> None:
    """Refuse an optimizer that this machine or launch cannot run, before anything is prepared for it.

    Args:
        args: With ``--optim`` and its settings.
        model_type: Of the model's config, if known.

    Raises:
        ConfigError: Its package is missing; GaLore or APOLLO without linear layers to work on; one that sharding
            breaks; Muon with settings that are not its own.
    """
    name = str(getattr(args.optim, "value", args.optim))
    for start, (package, *modules) in _PACKAGES.items():
        missing = [module for module in modules if name.startswith(start) and importlib.util.find_spec(module) is None]
        if missing:
            raise ConfigError(f"--optim {name} needs the package {missing[0]}.", f"Install it: pip install '{package}'.")
    if name.startswith(("galore", "apollo")):
        if model_type == "gpt2":  # its matrices are of transformers' Conv1D, which Trainer leaves out
            raise ConfigError(f"--optim {name} works on linear layers, and GPT-2 has none.", "Take a GPT-NeoX --preset.")
        if not args.optim_target_modules:
            raise ConfigError(
                f"--optim {name} needs --optim_target_modules: the linear layers it works on.",
                "Give --optim_target_modules '.*(attention|mlp).*'.",
            )
    if wants_sharding(args) and name not in SHARDED:
        raise ConfigError(
            f"--optim {name} works on whole matrices, and FSDP gives each process a piece of them.",
            f"Use --optim {' or '.join(SHARDED)}, or train without sharding.",
        )
    if name != "muon":
        if args.muon_adamw_lr is not None:
            raise ConfigError(f"--muon_adamw_lr {args.muon_adamw_lr} is for --optim muon, and this is {name}.", "Leave it out.")
        return
    if args.optim_args:
        raise ConfigError(f"--optim muon takes no --optim_args, got {args.optim_args}.", "See --muon_adamw_lr.")
    if args.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true", "yes", "on"):
        raise ConfigError(
            "--optim muon works on whole matrices, and DeepSpeed gives each process a piece of them.",
            "Use --optim adamw_torch_fused, or train without sharding.",
        )


@contextmanager
def making(args: ForgeTrainingArguments) -> Iterator[None]:
    """Around Trainer's own making of ``--optim``: what it finds wrong is told in one clear line, and its state can be read back.

    Raises:
        ConfigError: Instead of the exceptions that stock raises for settings.
    """
    name = str(getattr(args.optim, "value", args.optim))
    try:
        yield
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:  # all four are what Trainer raises
        raise ConfigError(f"--optim {name}: {str(error).rstrip('. ')}.", "Mend that, or choose another one.") from error
    for start, classes in _IN_STATE.items():
        if name.startswith(start):
            places = [path.rpartition(".") for path in classes]
            torch.serialization.add_safe_globals([getattr(sys.modules[place], own) for place, _, own in places])
    if name.endswith("layerwise") or "lomo" in name:
        logger.warning(
            "--optim %s applies each gradient as soon as it is there: it is not clipped, a gradient that is not finite is "
            "applied, and a resumed run starts with an empty state",
            name,
        )


def decayed_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay is for: matrices, and no norms or biases."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def hidden_matrices(model: nn.Module) -> dict[str, tuple[str, int]]:
    """The weights that Muon is for: those of linear layers inside the blocks.

    Embeddings, positions and the output head lie outside of them; norms and biases are no matrices.

    Returns:
        By name: the layout and the number of heads, as `Muon` takes them.
    """
    blocks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inside = {id(module) for block in blocks for module in block.modules()}
    heads = int(getattr(getattr(model, "config", None), "num_attention_heads", 1))
    found = {}
    for name, module in model.named_modules():
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D):
            fused = {"c_attn": "columns", "query_key_value": "heads"}.get(name.rpartition(".")[2], "whole")
            found[f"{name}.weight"] = (fused, heads if fused == "heads" else 1)
    return found


def build_optimizer(model: PreTrainedModel, args: ForgeTrainingArguments) -> torch.optim.Optimizer:
    """Muon on the hidden matrices of `model`, AdamW on everything else, as one optimizer.

    The first groups are Muon's, so that the learning rate that Trainer logs is ``--learning_rate``;
    AdamW's part has ``--muon_adamw_lr``. Decay is on matrices only. Newton-Schulz multiplies in bfloat16
    where the training does and the device has it natively, else in fp32: in an fp32 training bfloat16 would
    turn the rounding of another order of sums (accumulation, processes) into differences that show.

    Args:
        model: GPT-2 or GPT-NeoX.
        args: Learning rates, decay, and AdamW's betas and epsilon.

    Raises:
        ConfigError: As `check_optimizer`.
    """
    check_optimizer(args)
    hidden, decayed = hidden_matrices(model), set(decayed_names(model))
    rate = args.choose_learning_rate(model.config.hidden_size)
    rest_lr = MUON_ADAMW_SHARE * rate if args.muon_adamw_lr is None else args.muon_adamw_lr
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():  # a tied one comes once
        if parameter.requires_grad:
            kind = ("muon", *hidden[name]) if name in hidden else ("adamw", "whole", 1)
            groups.setdefault((kind[0] == "adamw", name not in decayed, *kind), []).append(parameter)
    return Muon(
        [
            {
                "params": parameters,
                "lr": rest_lr if kind == "adamw" else rate,
                "weight_decay": 0.0 if undecayed else args.weight_decay,
                "kind": kind,
                "layout": layout,
                "heads": heads,
            }
            for (_, undecayed, kind, layout, heads), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=rate,
        weight_decay=args.weight_decay,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        dtype=torch.bfloat16 if args.bf16 and probe_device(args.use_cpu).half == "bf16" else torch.float32,
    )
