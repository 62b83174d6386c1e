"""Muon for matrices and AdamW for the rest, as one optimizer object whose state saves and resumes.

Muon: Keller Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; its scale and weight
decay: Liu et al. (2025), "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982.
`torch.optim.Muon` takes matrices only, one by one, and always computes in bfloat16, which many
devices emulate; a fused query-key-value weight is one matrix to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

#: Of the quintic iteration, chosen to lift small singular values fast (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
#: Elements that are orthogonalised at a time: 64 MiB in fp32, and some three times that of working memory.
_CHUNK = 1 << 24
#: Devices with a fused AdamW kernel in torch.
_FUSED = ("cpu", "cuda", "mps", "xpu")


def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values of 1e-2 of the norm and up land in about 0.7 to 1.2.

    Args:
        matrices: ``(…, rows, columns)``; each is treated by itself.
        steps: Of the iteration X ← aX + (bA + cA²)X with A = XXᵀ.
        dtype: What to multiply in.

    Returns:
        The same shape in `dtype`; a zero matrix stays zero.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # so that A is the smaller of the two products
    shape = x.shape
    # The norm in fp32: in bfloat16 it would be off by up to half a percent.
    x = (x / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)).to(dtype).reshape(-1, *shape[-2:])
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    x = x.reshape(shape)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon on the groups of ``kind`` ``muon``, AdamW (torch's own function) on those of ``kind`` ``adamw``.

    A Muon step: momentum (Nesterov's), orthogonalised by `newton_schulz`, times
    ``lr · 0.2 · √max(rows, columns)``, which is the size AdamW's updates have (Liu et al. 2025), so
    that both take learning rates of the same order; weight decay is decoupled. Matrices of the
    same shape are orthogonalised together, in chunks that bound the memory. State: one
    buffer a matrix, AdamW's two a parameter of the rest.

    Works where an optimizer of torch does: gradient scaling and clipping, schedulers that scale each
    group's ``lr``, DDP (every process does the same), ``torch.load(weights_only=True)``. Parameters
    that are sharded over processes are not whole matrices and are not supported.

    Args:
        params: Parameter groups. Of a group: ``kind``; for ``muon`` also ``layout``, how its
            parameters hold matrices: ``whole``, ``columns`` (three side by side: GPT-2's ``c_attn``) or
            ``heads`` (three interleaved along the rows, ``(heads, 3, head_dim)``: GPT-NeoX's
            ``query_key_value``) with the number of ``heads``.
        lr: Learning rate of groups that name none.
        weight_decay: Of groups that name none.
        momentum: Of Muon.
        steps: Of Newton-Schulz.
        betas, eps: Of AdamW.
        dtype: What Newton-Schulz multiplies in. bfloat16 is for devices that have it natively: a CPU that
            emulates it takes over a hundred times as long.

    Raises:
        ValueError: A ``muon`` group with a parameter that is no matrix, or an unknown kind or layout.
    """

    dtype: torch.dtype = torch.float32

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype  # no part of the state, which may go on on another device
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps, "betas": betas, "eps": eps}
        super().__init__(params, defaults | {"kind": "muon", "layout": "whole", "heads": 1, "fused": None})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Extends `Optimizer.add_param_group`: refuses what cannot be orthogonalised, and chooses AdamW's kernel."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["kind"] not in ("muon", "adamw") or group["layout"] not in ("whole", "columns", "heads"):
            raise ValueError(f"no kind {group['kind']!r} with layout {group['layout']!r}")
        if group["kind"] == "muon" and any(parameter.ndim != 2 for parameter in group["params"]):
            raise ValueError("Muon is for matrices; give other parameters the kind 'adamw'")
        if group["fused"] is None:
            group["fused"] = group["kind"] == "adamw" and all(p.device.type in _FUSED for p in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step on all parameters that have a gradient; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for chunk in self._chunks():
            self._orthogonal_step(chunk)
        for group in self.param_groups:
            if group["kind"] == "adamw":
                self._adamw_step(group)
        return loss

    def _chunks(self) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
        """Parameters whose matrices have the same shape, up to transposition, with their groups; `_CHUNK` bounds each list."""
        alike: dict[Any, list[tuple[Tensor, dict[str, Any]]]] = {}
        for group in self.param_groups:
            for parameter in group["params"] if group["kind"] == "muon" else ():
                if parameter.grad is not None:
                    short, long = sorted(_matrices(parameter, group).flatten(1, -2).shape[1:])
                    key = (short, long, group["momentum"], group["steps"], parameter.device, parameter.dtype)
                    alike.setdefault(key, []).append((parameter, group))
        for items in alike.values():
            chunk: list[tuple[Tensor, dict[str, Any]]] = []
            size = 0
            for item in items:
                if chunk and size + item[0].numel() > _CHUNK:
                    yield chunk
                    chunk, size = [], 0
                chunk.append(item)
                size += item[0].numel()
            yield chunk

    def _orthogonal_step(self, chunk: list[tuple[Tensor, dict[str, Any]]]) -> None:
        parameters, groups = zip(*chunk, strict=True)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        momentum, steps = groups[0]["momentum"], groups[0]["steps"]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = [
            _matrices(update, group).flatten(1, -2)
            for update, group in zip(torch._foreach_lerp(gradients, buffers, momentum), groups, strict=True)
        ]
        tall = [update.size(1) > update.size(2) for update in updates]
        stacked = torch.cat([update.mT if turn else update for update, turn in zip(updates, tall, strict=True)])
        counts = [len(update) for update in updates]
        del updates
        done = newton_schulz(stacked, steps, self.dtype)
        scale = 0.2 * max(done.shape[1:]) ** 0.5
        for parameter, group, piece, turn in zip(parameters, groups, done.split(counts), tall, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            place = _matrices(parameter, group)
            place.add_((piece.mT if turn else piece).reshape(place.shape), alpha=-group["lr"] * scale)

    def _adamw_step(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                # As torch.optim.AdamW has them: the fused kernel wants the count on the device.
                device = parameter.device if group["fused"] else "cpu"
                self.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for name in ("exp_avg", "exp_avg_sq"):
                    self.state[parameter][name] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"] or None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _matrices(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """A view of `parameter` with its matrices along the first dimension: ``(matrices, rows…, columns)``."""
    if group["layout"] == "columns":
        return parameter.unflatten(1, (3, -1)).transpose(0, 1)
    if group["layout"] == "heads":
        return parameter.unflatten(0, (group["heads"], 3, -1)).transpose(0, 1)
    return parameter.unsqueeze(0)
