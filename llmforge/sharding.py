"""A model that FSDP spreads over the processes: its state brought together, and spread out again.

What is brought together is the state of an unsharded training, tensor for tensor. So a checkpoint says nothing of how
it was trained: one process, DDP and FSDP on any number of processes resume from each other's.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

#: Optimizers that treat each number of a tensor by itself, and so do not see that they are given a piece of it.
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd")


def wants_sharding(args: Any) -> bool:
    """Whether the launch, or the training arguments, ask for FSDP."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes", "on")


def refuse_unsharded(args: Any) -> None:
    """Refuse FSDP where accelerate would silently train without it.

    Raises:
        ConfigError: It is asked for on a CPU.
    """
    if wants_sharding(args) and args.use_cpu:  # which says it before there is a process group
        raise ConfigError(
            "FSDP on a CPU: accelerate trains with DDP there and says nothing, and every process holds the whole model.",
            "Launch with `accelerate launch --multi_gpu --num_processes 2 …`, which is DDP, or on GPUs.",
        )


def refuse_sharding(args: Any, what: str) -> None:
    """Refuse FSDP for `what`, which cannot be spread over processes.

    Raises:
        ConfigError: It is asked for.
    """
    if wants_sharding(args):
        raise ConfigError(f"FSDP does not go with {what}.", "Launch with --multi_gpu for DDP, or with one process.")


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of `model` are spread over the processes."""
    from torch.distributed.tensor import DTensor  # which commands that do not train need not import

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def is_shard(module: nn.Module) -> bool:
    """Whether `module` is one that FSDP brings together and spreads again by itself."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def unshard(module: nn.Module) -> None:
    """Bring the parameters of `module` together for a use that FSDP does not see; nothing is done where they are whole."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.unshard()


def piece(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of `tensor`, detached: all of it, where it is not spread."""
    from torch.distributed.tensor import DTensor

    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def whole(value: Any) -> Any:
    """A tensor whose pieces are brought together, on its device; anything else as it is. All processes call it alike."""
    return value.detach().full_tensor() if hasattr(value, "full_tensor") else value


def gathered(state: Any, keep: bool) -> Any:
    """A copy of `state` in CPU memory, in which every spread tensor is whole. All processes call it alike: each holds a piece.

    Args:
        state: Nested dictionaries, lists and tuples of tensors and of anything else, as `state_dict` gives it; tied weights
            stay tied where they are one object, as with ``keep_vars``.
        keep: Whether this process wants it; one that does not gets empty tensors, and holds one whole tensor at a time.
    """
    seen: dict[int, torch.Tensor] = {}  # by identity, which is the same in all processes

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        key = id(tensor)
        if key not in seen:
            full = whole(tensor)
            same = full.untyped_storage().data_ptr() == piece(tensor).untyped_storage().data_ptr()
            seen[key] = full.detach().to("cpu", copy=same) if keep else full.new_empty(0, device="cpu")
        return seen[key]

    return _mapped(state, copied)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    import torch

    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor`, which every process holds whole, spread as `like` is; nothing is sent."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    there = tensor.to(piece(like).device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def spread_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An unsharded optimizer's `state_dict` as one for `optimizer`, whose parameters are spread."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = [place for group in state["param_groups"] for place in group["params"]]
    like = dict(zip(places, parameters, strict=True))
    return {
        **state,
        "state": {
            place: {name: spread(value, like[place]) if hasattr(value, "shape") else value for name, value in values.items()}
            for place, values in state["state"].items()
        },
    }


def load_weights(model: PreTrainedModel, folder: Path) -> Any:
    """Load the safetensors of a checkpoint, which is of an unsharded state, into a spread `model`.

    Returns:
        The names that were missing and unexpected, as `load_state_dict` gives them.
    """
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    pieces = model.state_dict()
    return model.load_state_dict({name: spread(value, pieces.get(name, value)) for name, value in state.items()}, strict=False)


def whole_model(model: PreTrainedModel, keep: bool) -> PreTrainedModel:
    """`model` itself where it is not spread; else an unsharded one like it, on the CPU. All processes call it.

    Args:
        model: As trained.
        keep: Whether this process wants it; one that does not gets `model`.
    """
    if not is_sharded(model):
        return model
    state = gathered(model.state_dict(keep_vars=True), keep)
    if not keep:
        return model
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_config(model.config)  # with its buffers, which no state has
    whole.load_state_dict(state, assign=True)
    whole.tie_weights()
    whole.generation_config = copy.deepcopy(model.generation_config)
    return whole.eval()
