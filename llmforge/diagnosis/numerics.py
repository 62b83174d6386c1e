"""Whether a device computes rightly: what training is made of, compared with numpy in float64.

A kernel that writes zeros, or one that was compiled for another card, raises no error. numpy shares no code with
PyTorch's kernels, so the comparison says something on a CPU too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray
#: The largest difference that rounding explains, as a share of the largest value of the result, by precision: at least
#: ten times the most that was seen on a CPU (4e-7, 4e-4, 4e-3), for sums in other orders. A kernel that writes zeros is off by 1.
ALLOWED = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 4e-2}
#: Of what AdamW changes weights by, which is a hundredth of them.
_ALLOWED_ADAMW = 1e-3
#: Sizes that are no multiple of a tile.
_ROWS, _WIDTH, _INNER = 193, 257, 385
#: Of a product that other kernels do, such as a model's.
_LARGE = (1025, 768, 1030)
_BATCH, _HEADS, _LENGTH, _HEAD = 2, 3, 67, 64


@dataclass(frozen=True)
class Comparison:
    """A result of the device beside the right one.

    Attributes:
        name: What was computed.
        error: The largest difference, as a share of the largest right value; not finite where the result is not.
        allowed: What rounding explains.
    """

    name: str
    error: float
    allowed: float

    @property
    def right(self) -> bool:
        """Whether the device computed rightly."""
        return self.error <= self.allowed


def compared(name: str, result: Array, right: Array, allowed: float) -> Comparison:
    """`result` beside `right`, which may be any numbers, but not all zero."""
    scale = float(np.abs(right).max())
    assert scale > 0, name
    worst = np.abs(result.astype(np.float64) - right).max() / scale
    return Comparison(name, float(worst), allowed)


@contextlib.contextmanager
def whole_products() -> Iterator[None]:
    """fp32 is multiplied as fp32 inside, whatever the environment asks for.

    With TF32 or bf16 in its place (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE``) a product is off by more than `ALLOWED`, and
    that is what was asked for, no fault of the device.
    """
    import torch

    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def compare_operations(
    device: torch.device,
    precision: str,
    tell: Callable[[str], None],
    running: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Comparison]:
    """Each operation on `device`, its inputs rounded to `precision` before both sides take them.

    Args:
        device: To compute on.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        tell: Is told what comes next.
        running: Entered around whatever the device computes.
    """
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    source = np.random.RandomState(0)

    def rounded(*shape: int) -> tuple[torch.Tensor, Array]:
        tensor = torch.from_numpy(source.standard_normal(shape)).to(dtype)
        return tensor.to(device), tensor.double().numpy()

    for name, operation in _OPERATIONS.items():
        tell(f"{name} in {precision}")
        with running():
            pair = operation(rounded)
            result = pair[0].detach().cpu().double().numpy()
        yield compared(f"{name} in {precision}", result, pair[1], ALLOWED[precision])
    if precision == "fp32":
        tell("AdamW")
        with running():
            result, right = _adamw(source, device)
        yield compared("AdamW", result, right, _ALLOWED_ADAMW)


def _matmul(rounded: Any, *sizes: int) -> tuple[torch.Tensor, Array]:
    (a, one), (b, other) = rounded(*sizes[:2]), rounded(*sizes[1:])
    return a @ b, one @ other


def _softmax(rounded: Any) -> tuple[torch.Tensor, Array]:
    a, one = rounded(_ROWS, _WIDTH)
    return (8 * a).softmax(-1), _numpy_softmax(8 * one)


def _layer_norm(rounded: Any) -> tuple[torch.Tensor, Array]:
    from torch.nn import functional as F

    (a, one), (weight, w), (bias, b) = rounded(_ROWS, _WIDTH), rounded(_WIDTH), rounded(_WIDTH)
    centred = one - one.mean(-1, keepdims=True)
    right = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b
    return F.layer_norm(a, (_WIDTH,), weight, bias), right


def _cross_entropy(rounded: Any) -> tuple[torch.Tensor, Array]:
    import torch
    from torch.nn import functional as F

    logits, right = rounded(_ROWS, _WIDTH)
    goals = np.arange(_ROWS) * 7 % _WIDTH
    loss = F.cross_entropy(logits, torch.from_numpy(goals).to(logits.device), reduction="none")
    return loss, -np.log(_numpy_softmax(right)[np.arange(_ROWS), goals])


def _attention(rounded: Any, padded: bool) -> tuple[torch.Tensor, Array]:
    import torch
    from torch.nn import functional as F

    (q, query), (k, key), (v, value) = (rounded(_BATCH, _HEADS, _LENGTH, _HEAD) for _ in range(3))
    seen = np.tril(np.ones((_LENGTH, _LENGTH), dtype=bool))[None, None]
    if padded:  # the second row's last places are padding
        real = np.arange(_LENGTH)[None] < np.array([[_LENGTH], [_LENGTH - 19]])
        seen = seen & real[:, None, None, :]
        result = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(seen).to(q.device))
    else:
        result = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = np.where(seen, query @ key.swapaxes(-1, -2) / np.sqrt(_HEAD), -np.inf)
    return result, _numpy_softmax(scores) @ value


_OPERATIONS: dict[str, Callable[[Any], tuple[Any, Array]]] = {
    "matmul": lambda rounded: _matmul(rounded, _ROWS, _INNER, _WIDTH),
    "large matmul": lambda rounded: _matmul(rounded, *_LARGE),
    "softmax": _softmax,
    "layer norm": _layer_norm,
    "cross entropy": _cross_entropy,
    "causal attention": lambda rounded: _attention(rounded, padded=False),
    "attention with padding": lambda rounded: _attention(rounded, padded=True),
}


def _numpy_softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _adamw(source: np.random.RandomState, device: torch.device) -> tuple[Array, Array]:
    """What three steps change; in torch by the very kernel that ``--optim adamw_torch_fused`` takes."""
    import torch

    rate, betas, epsilon, decay = 1e-2, (0.9, 0.95), 1e-8, 0.1
    start = source.standard_normal((_ROWS, _WIDTH)).astype(np.float32)
    gradients = [source.standard_normal((_ROWS, _WIDTH)).astype(np.float32) for _ in range(3)]
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()).to(device))
    optimizer = torch.optim.AdamW([weight], lr=rate, betas=betas, eps=epsilon, weight_decay=decay, fused=True)
    right = start.astype(np.float64)
    first, second = np.zeros_like(right), np.zeros_like(right)
    for step, gradient in enumerate(gradients, start=1):
        weight.grad = torch.from_numpy(gradient).to(device)
        optimizer.step()
        first = betas[0] * first + (1 - betas[0]) * gradient.astype(np.float64)
        second = betas[1] * second + (1 - betas[1]) * gradient.astype(np.float64) ** 2
        moved = first / (1 - betas[0] ** step) / (np.sqrt(second / (1 - betas[1] ** step)) + epsilon)
        right = right * (1 - rate * decay) - rate * moved
    return weight.detach().cpu().numpy() - start, right - start
