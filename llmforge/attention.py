"""Attention in which packed documents do not see each other, without a mask.

Stock transformers finds packed documents by looking at ``position_ids`` on the device at every
step and keeps them apart by a mask of rows × length × length, which costs causal kernels their
shortcut and, where there is dropout on a CPU, the memory of every weight. Here each document gets
causal attention of its own, from lengths that the collator knew: work grows with the sum of their
squares. A call without `Segments` (generation, other datasets) is stock's, bit for bit.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmforge.errors import ConfigError
from llmforge.segments import Plan, Segments

#: Names under which transformers finds the two ways; a saved config holds neither.
BY_DOCUMENT, VARLEN = "llmforge_by_document", "llmforge_varlen"


class _Arrange(torch.autograd.Function):
    """Tokens to places. Filling places get no gradient, so backward is a gather too: no sums, no atomics."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, places: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(origins)
        return tokens.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (origins,) = ctx.saved_tensors
        return grads[0].index_select(0, origins), None, None


class _Restore(torch.autograd.Function):
    """Places back to tokens; what filling places hold is dropped."""

    @staticmethod
    def forward(ctx: Any, filled: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(origins)
        ctx.places = len(filled)
        return filled.index_select(0, origins)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (origins,) = ctx.saved_tensors
        grad = grads[0]
        return grad.new_zeros(ctx.places, *grad.shape[1:]).index_copy_(0, origins, grad), None


def attend_by_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Plan, dropout: float, scale: float | None
) -> torch.Tensor:
    """Causal attention of each document alone, by stock sdpa; ``(tokens, heads, head width)``, all three and the result."""
    sizes = [documents * length for documents, length in plan.calls]
    if plan.places is not None and plan.origins is not None:
        query, key, value = (_Arrange.apply(tokens, plan.places, plan.origins) for tokens in (query, key, value))
    results = []
    # Split's backward is one concatenation; slices would each make a gradient of full size.
    for call, *parts in zip(plan.calls, *(tokens.split(sizes) for tokens in (query, key, value)), strict=True):
        q, k, v = (part.unflatten(0, call).transpose(1, 2) for part in parts)
        result = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)
        results.append(result.transpose(1, 2).flatten(0, 1))
    output = results[0] if len(results) == 1 else torch.cat(results)
    return output if plan.origins is None else _Restore.apply(output, plan.origins)


# Its calls depend on the lengths: traced, every batch would be compiled anew.
@torch.compiler.disable(recursive=True)  # type: ignore[untyped-decorator]
def _by_document(*heads: torch.Tensor, segments: Segments, dropout: float, scale: float | None) -> torch.Tensor:
    query, key, value = heads
    return attend_by_document(query, key, value, segments.plan(query.device), dropout, scale)


def varlen_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cumulative: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """The same in one kernel, `torch.nn.attention.varlen`: half precision on a CUDA GPU, no dropout. Not tried on hardware."""
    from torch.nn.attention.varlen import varlen_attn  # needs a recent torch, and nothing else here does

    given = (cumulative, cumulative, longest, longest)
    result: torch.Tensor = varlen_attn(query, key, value, *given, scale=scale, window_size=(-1, 0))  # type: ignore[assignment]
    return result


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    varlen: bool,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention function: ``(rows, heads, length, head width)`` in, ``(rows, length, heads, …)`` out."""
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    q, k, v = (tokens.transpose(1, 2).flatten(0, 1).to(dtype) for tokens in (query, key, value))
    if varlen and dropout == 0 and dtype in (torch.bfloat16, torch.float16):
        output = varlen_kernel(q, k, v, segments.cumulative, segments.shape[1], scaling)
    else:
        output = _by_document(q, k, v, segments=segments, dropout=dropout, scale=scaling)
    return output.unflatten(0, segments.shape), None


def _segments_or_mask(
    module: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Before the base model's forward: with segments, no mask is made; where they do not apply, stock goes on without.

    A mask of four dimensions is taken as it is, so none is built and `position_ids` are not looked
    at, which would wait for the device. Any such tensor will do; our attention does not read it.
    """
    segments = kwargs.pop("segments", None)
    if segments is None:
        return None
    tokens = args[0] if args and args[0] is not None else kwargs.get("input_ids")
    tokens = kwargs["inputs_embeds"] if tokens is None else tokens
    ours = module.config._attn_implementation in (BY_DOCUMENT, VARLEN)
    # Other rows than the collator's (DataParallel's shards, say), a mask of the caller's, a filled cache.
    fits = tuple(tokens.shape[:2]) == segments.shape and kwargs.get("attention_mask") is None
    if not ours or not fits or kwargs.get("past_key_values") is not None:
        return args, kwargs
    if segments.cumulative.device != tokens.device:
        segments = segments.to(tokens.device)
    return args, kwargs | {"segments": segments, "attention_mask": segments.cumulative[:1].view(1, 1, 1, 1)}


def install_attention(model: PreTrainedModel, way: str = BY_DOCUMENT) -> PreTrainedModel:
    """Let `model` take ``segments``; the class and what is saved stay stock.

    A model that was loaded with another implementation than sdpa keeps it.

    Args:
        model: GPT-2 or GPT-NeoX; any other is left as it is.
        way: `BY_DOCUMENT`, `VARLEN`, or ``sdpa`` for stock's mask; see `choose_attention`.

    Returns:
        The same model; installing again only changes the way.
    """
    if model.config.model_type not in ("gpt2", "gpt_neox"):
        return model
    if hasattr(model, "get_base_model"):  # of peft, which hands every argument on
        install_attention(model.get_base_model(), way)
        return model
    for name in (BY_DOCUMENT, VARLEN):
        AttentionInterface.register(name, functools.partial(_attention, varlen=name == VARLEN))
        AttentionMaskInterface.register(name, sdpa_mask)
    if model.config._attn_implementation in ("sdpa", BY_DOCUMENT, VARLEN):
        model.set_attn_implementation(way)
    if _segments_or_mask not in model.base_model._forward_pre_hooks.values():
        model.base_model.register_forward_pre_hook(_segments_or_mask, with_kwargs=True)
    return model


class Choice(NamedTuple):
    """How packed documents are kept apart: the name to install, and a line for people."""

    way: str
    line: str


def choose_attention(asked: str, config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> Choice:
    """Which way runs, decided once at start.

    Args:
        asked: ``--packed_attention``: auto, varlen, segments or mask.
        config: Of the model: heads, width and dropout.
        device: That it trains on.
        dtype: That it computes in.

    Raises:
        ConfigError: ``varlen`` where it cannot run.
    """
    if asked == "mask":
        return Choice("sdpa", "documents isolated by a block-diagonal mask (sdpa)")
    if asked != "segments":
        dropout = "attn_pdrop" if config.model_type == "gpt2" else "attention_dropout"
        if getattr(config, dropout, 0.0) > 0:
            reason = f"it has no dropout, and --{dropout} is {getattr(config, dropout)}"
        else:
            width = config.hidden_size // config.num_attention_heads
            reason = why_no_varlen(device, dtype, config.num_attention_heads, width)
        if not reason:
            return Choice(VARLEN, "documents isolated by variable-length causal attention (torch.nn.attention.varlen)")
        if asked == "varlen":
            raise ConfigError(f"--packed_attention varlen cannot run here: {reason}.", "Give --packed_attention auto.")
    return Choice(BY_DOCUMENT, "documents isolated by causal attention per document (sdpa)")


def why_no_varlen(device: torch.device, dtype: torch.dtype, heads: int, width: int) -> str:
    """Why `varlen_kernel` cannot run, empty where it can: tried with a few documents, it gives what sdpa gives."""
    if device.type != "cuda" or torch.version.hip:
        return f"it needs a CUDA GPU, and the device is {'a ROCm GPU' if torch.version.hip else device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it needs bf16 or fp16, and {str(dtype).removeprefix('torch.')} is computed in"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no flash attention"
    return _trial(device, dtype, heads, width)


@functools.cache
def _trial(device: torch.device, dtype: torch.dtype, heads: int, width: int) -> str:
    """What is wrong with `varlen_kernel` on awkward lengths, its gradients included; empty if nothing is."""
    segments = Segments(np.array([1, 63, 2, 190, 128, 1, 127]), (2, 256)).to(device)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(512, heads, width, generator=generator).to(device, dtype) for _ in range(4)]
    results = []
    try:
        for way in (VARLEN, BY_DOCUMENT):
            q, k, v = given = [tokens.clone().requires_grad_() for tokens in drawn[:3]]
            if way == VARLEN:
                output = varlen_kernel(q, k, v, segments.cumulative, segments.shape[1], width**-0.5)
            else:
                output = attend_by_document(q, k, v, segments.plan(device), 0.0, width**-0.5)
            output.backward(drawn[3])
            results.append([output.detach(), *(tokens.grad for tokens in given if tokens.grad is not None)])
        # Values of about 1; two kernels in bf16 differ by some 2**-7, one that leaks or shifts by 1.
        worst = max(float((ours - theirs).abs().max()) for ours, theirs in zip(*results, strict=True))
    except Exception as error:  # whatever a kernel raises where it cannot run
        return f"its kernel fails ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return "" if worst < 0.1 else f"its kernel is off by {worst:.2g}"
