"""The loss, as sums that can be added up over any batches without becoming wrong.

Perplexity is an exponential of an average over *tokens*. An average of batch averages is
another number whenever batches hold unequal numbers of targets, so evaluation adds up
sums and divides once.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: A target that is not predicted, as in torch's cross entropy.
IGNORE = -100
#: Columns of `row_sums`.
SUM_NAMES = ("nll", "tokens", "correct", "bytes", "byte_nll")
#: Tokens whose logits exist at a time during evaluation; 1,024 rows of 50,304 are 206 MB in fp32.
_CHUNK = 1024


def row_sums(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, token_bytes: torch.Tensor) -> torch.Tensor:
    """Sums over the targets of each row; full logits never exist.

    Args:
        hidden: Last hidden states, ``(rows, length, width)``.
        head: The output projection, width to vocabulary.
        targets: The id that truly follows each position, `IGNORE` where none is predicted, ``(rows, length)``.
        token_bytes: UTF-8 bytes of each token, 0 for special ones, ``(vocabulary,)``.

    Returns:
        ``(rows, 5)`` in float64: negative log-likelihood in nats, number of targets, how many
        the model ranked first, their bytes, and the negative log-likelihood of those that have bytes.
    """
    import torch
    from torch.nn import functional as F

    rows, length = targets.shape
    row_of = torch.arange(rows, device=targets.device).repeat_interleave(length)
    flat, goals = hidden.reshape(rows * length, -1), targets.reshape(-1)
    kept = (goals != IGNORE).nonzero().squeeze(-1)
    # float64 adds up to 2^53 exactly; MPS has none.
    sums = torch.zeros(
        rows, len(SUM_NAMES), dtype=torch.float32 if flat.device.type == "mps" else torch.float64, device=flat.device
    )
    for chunk in kept.split(_CHUNK):
        goal = goals[chunk]
        logits = head(flat[chunk]).float()
        nll = F.cross_entropy(logits, goal, reduction="none")
        size = token_bytes[goal]
        columns = (nll, torch.ones_like(nll), logits.argmax(-1) == goal, size, nll * (size > 0))
        sums.index_add_(0, row_of[chunk], torch.stack([column.to(sums.dtype) for column in columns], dim=1))
    return sums


def _no_warning(*args: Any, **kwargs: Any) -> None:
    """Stands in for a check that does not apply to packed rows."""


def install_losses(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the instance's `forward` by one that trains and evaluates packed rows rightly.

    The class stays stock, and so does what is saved. Replacing `forward`, rather than
    `Trainer.compute_loss`, keeps the computation inside DDP's own forward.

    - ``loss_type`` is set: without it Trainer divides GPT-2's loss by one token a row too many.
    - With ``shift_labels`` the cache is off: a cache switches off the isolation of packed documents.
    - With ``token_bytes`` as well it returns only ``row_sums``, for evaluation.

    Returns:
        The same model; installing twice changes nothing.
    """
    if "forward" in vars(model):
        return model
    stock = type(model).forward

    @functools.wraps(stock)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        shift_labels: torch.Tensor | None = None,
        token_bytes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if shift_labels is None:
            return stock(self, *args, **kwargs)
        kwargs["use_cache"] = False
        if token_bytes is None:
            return stock(self, *args, shift_labels=shift_labels, **kwargs)
        for name in ("labels", "num_items_in_batch"):
            kwargs.pop(name, None)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        return {"row_sums": row_sums(hidden, self.get_output_embeddings(), shift_labels, token_bytes)}

    model.loss_type = "ForCausalLM"
    # Packed rows have no attention mask and may end in padding, which predicts nothing; the
    # stock look for it waits for the device at every step, to warn of what is meant to be.
    model.base_model.warn_if_padding_and_no_attention_mask = _no_warning
    model.forward = MethodType(forward, model)  # type: ignore[method-assign]
    return model
