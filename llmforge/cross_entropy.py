"""The output head and its cross entropy in one, of which only a few rows of logits exist at a time.

The logits of 8 rows of 1,024 at a vocabulary of 50,304 are 1.6 GB in fp32, and the stock way holds
them three times: as logits, as log-probabilities and as gradients. The gradient of a row's
negative log-likelihood is softmax minus one-hot, known as soon as the row's logits are. So it is
multiplied through the head at once, in the forward pass, chunk by chunk, and the logits are forgotten.
Wijmans et al. 2024 (Cut Your Losses) and Liger do the like in Triton; this is plain torch.
"""

from __future__ import annotations

from typing import Any

import torch

#: Bytes of a chunk's logits, counted in fp32, and rows of a chunk at most, on a CPU: measured, docs/benchmarks.md.
_CPU_BYTES, _CPU_ROWS = 64 * 2**20, 512
#: The same elsewhere, where a larger chunk keeps the device busy. Not tried on hardware.
_BYTES = 256 * 2**20
#: Rows of a chunk at most in fp16, whose largest number is 65,504: the sum of so many gradients, each at
#: most 1, times hidden states of up to 64 stays below it. (No loss scale helps: the sum comes before it.)
_FP16_ROWS = 1024
#: Rows of a chunk are a multiple of this, so that matrix kernels run on whole tiles.
_TILE = 64


def chunk_rows(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """How many of `rows` have their logits at a time: chunks of about one size, within the limits above."""
    most = min(_CPU_BYTES // (4 * vocabulary), _CPU_ROWS) if device.type == "cpu" else _BYTES // (4 * vocabulary)
    if dtype == torch.float16:
        most = min(most, _FP16_ROWS)
    most = max(most // _TILE, 1) * _TILE
    chunks = max(-(-rows // most), 1)
    return max(-(-rows // (chunks * _TILE)), 1) * _TILE


class _LinearCrossEntropy(torch.autograd.Function):
    """Arguments as `linear_cross_entropy`; `dtype` is what the matrices are multiplied in, `wanted` which gradients are."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        ignore_index: int,
        dtype: torch.dtype,
        wanted: tuple[bool, bool],
    ) -> torch.Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        flat, head = hidden.to(dtype), weight.to(dtype)
        skipped = (targets == ignore_index).unsqueeze(1)
        # Every position is computed and the ignored ones are masked: to pick the others would wait for the device.
        goals = targets.unsqueeze(1).masked_fill(skipped, 0)
        nll = torch.empty(goals.shape, dtype=wide, device=hidden.device)
        hidden_grad = torch.empty_like(flat, dtype=wide) if wanted[0] else None
        weight_grad = torch.zeros_like(head, dtype=wide) if wanted[1] else None
        rows = chunk_rows(len(flat), len(head), dtype, hidden.device)
        size = (min(rows, len(flat)), len(head))
        logits, terms = (torch.empty(size, dtype=kind, device=hidden.device) for kind in (dtype, wide))
        for start in range(0, len(flat), rows):
            part = slice(start, start + rows)
            inputs, goal = flat[part], goals[part]
            products = torch.mm(inputs, head.t(), out=logits[: len(inputs)])
            gradient = torch.log_softmax(products, -1, dtype=wide, out=terms[: len(inputs)])
            log_likelihood = gradient.gather(1, goal)
            torch.neg(log_likelihood, out=nll[part])
            if not any(wanted):
                continue
            # softmax - one-hot; expm1 keeps the digits of p - 1 where the model is nearly sure.
            gradient.exp_().scatter_(1, goal, torch.expm1(log_likelihood))
            if dtype != wide:
                gradient = products.copy_(gradient)
            # Ignored rows are masked here, in matrices of the width, instead of in those of the vocabulary.
            if hidden_grad is not None:
                hidden_grad[part] = torch.mm(gradient, head).masked_fill_(skipped[part], 0)
            if weight_grad is not None:
                inputs = inputs.masked_fill(skipped[part], 0)
                if dtype == wide:
                    weight_grad.addmm_(gradient.t(), inputs)
                else:
                    weight_grad += torch.mm(gradient.t(), inputs)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.dtypes = (hidden.dtype, weight.dtype)
        ctx.spent = False
        return nll.masked_fill_(skipped, 0).sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.spent or torch.is_grad_enabled():  # the latter where a graph of the gradients is asked for
            raise RuntimeError("The lean loss has no second backward pass and no second derivative: give --no-lean-loss.")
        ctx.spent = True  # they are scaled in place: a second copy for a large vocabulary may not fit
        grads = (
            None if made is None else made.mul_(grad).to(dtype) for made, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None, None, None, None)


# A compiler would unroll the chunks into one long graph; it takes the model before and leaves this as it is.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100
) -> torch.Tensor:
    """`cross_entropy(linear(hidden, weight), targets, reduction="sum")`, without ever holding all logits.

    As with stock, under autocast the matrices are multiplied in its dtype; softmax and sums are in
    fp32, and the weight's gradient is added up in fp32 over the chunks. The gradients are those of the
    *sum*: divide the result, and they are divided in the backward pass, in fp32. A mean's own gradients of
    logits, about 1 / (vocabulary · targets), are below what fp16 holds. On a GPU not tried on hardware.

    Args:
        hidden: ``(positions, width)``, floating point.
        weight: Of a linear layer without bias, ``(vocabulary, width)``.
        targets: ``(positions,)``, int64; `ignore_index` where there is none.
        ignore_index: Such a position adds nothing.

    Returns:
        The sum over the targets of the negative log-likelihood in nats, a scalar in fp32 (fp64 of fp64);
        0 where there is no target. Its backward pass can run once; a second one raises RuntimeError.

    Raises:
        ValueError: Not one target a position.
    """
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"{tuple(targets.shape)} targets for hidden states {tuple(hidden.shape)}")
    kind, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(kind)
    elif weight.dtype != dtype:
        raise ValueError(f"hidden states in {dtype} and weight in {weight.dtype}")
    training = torch.is_grad_enabled()
    wanted = (training and hidden.requires_grad, training and weight.requires_grad)
    with torch.autocast(kind, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, targets, ignore_index, dtype, wanted)
