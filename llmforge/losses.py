"""The loss, as sums that can be added up over any batches without becoming wrong.

Perplexity is an exponential of an average over *tokens*. An average of batch averages is
another number whenever batches hold unequal numbers of targets, so evaluation adds up
sums and divides once.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

from llmforge.runtime.logs import logger
from llmforge.sharding import is_shard, unshard

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

#: A target that is not predicted, as in torch's cross entropy.
IGNORE = -100
#: Columns of `row_sums`.
SUM_NAMES = ("nll", "tokens", "correct", "bytes", "byte_nll")
#: Columns of `segment_sums`.
SEGMENT_SUM_NAMES = (*SUM_NAMES, "top5")
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

    rows, length = targets.shape
    row_of = torch.arange(rows, device=targets.device).repeat_interleave(length)
    return _add_up(hidden, head, targets, token_bytes, row_of, rows)


def segment_sums(
    hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, token_bytes: torch.Tensor, ordinals: torch.Tensor
) -> torch.Tensor:
    """As `row_sums`, for each segment of each row.

    Args:
        hidden: Last hidden states, ``(rows, length, width)``.
        head: The output projection, width to vocabulary.
        targets: The id that truly follows each position, `IGNORE` where none is predicted, ``(rows, length)``.
        token_bytes: UTF-8 bytes of each token, 0 for special ones, ``(vocabulary,)``.
        ordinals: The segment that each position is in, counted in its row, ``(rows, length)``.

    Returns:
        ``(rows, segments, 6)`` in float64, with `SEGMENT_SUM_NAMES`: the sixth is how many targets the model ranked
        among the first five. Rows of fewer segments end in zeros.
    """
    import torch

    rows, length = targets.shape
    most = int(ordinals.max()) + 1
    row_of = torch.arange(rows, device=targets.device).repeat_interleave(length)
    sums = _add_up(hidden, head, targets, token_bytes, row_of * most + ordinals.reshape(-1), rows * most, top5=True)
    return sums.reshape(rows, most, len(SEGMENT_SUM_NAMES))


def _add_up(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    token_bytes: torch.Tensor,
    group_of: torch.Tensor,
    groups: int,
    top5: bool = False,
) -> torch.Tensor:
    """Sums over the targets of each group of positions."""
    import torch
    from torch.nn import functional as F

    rows, length = targets.shape
    flat, goals = hidden.reshape(rows * length, -1), targets.reshape(-1)
    kept = (goals != IGNORE).nonzero().squeeze(-1)
    # float64 adds up to 2^53 exactly; MPS has none.
    sums = torch.zeros(
        groups, len(SUM_NAMES) + top5, dtype=torch.float32 if flat.device.type == "mps" else torch.float64, device=flat.device
    )
    for chunk in kept.split(_CHUNK):
        goal = goals[chunk]
        logits = head(flat[chunk]).float()
        nll = F.cross_entropy(logits, goal, reduction="none")
        size = token_bytes[goal]
        columns = [nll, torch.ones_like(nll), logits.argmax(-1) == goal, size, nll * (size > 0)]
        if top5:
            columns.append((logits > logits.gather(1, goal[:, None])).sum(-1) < 5)
        sums.index_add_(0, group_of[chunk], torch.stack([column.to(sums.dtype) for column in columns], dim=1))
    return sums


def _no_warning(*args: Any, **kwargs: Any) -> None:
    """Stands in for a check that does not apply to packed rows."""


def _plain_head(model: PreTrainedModel) -> torch.nn.Linear | None:
    """The output head, if it is nothing but a product with a weight that lies there: whatever wraps it has its reasons."""
    import torch
    from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM

    known = (GPT2LMHeadModel.forward, GPTNeoXForCausalLM.forward)  # by which a subclass with another one is told apart
    if type(model).forward not in known or getattr(model.config, "add_cross_attention", False):
        return None
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or "forward" in vars(head):
        return None
    if is_shard(head):  # FSDP's own class and hooks; `_lean_output` brings the weight together
        return head
    hooks = head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    if type(head) is not torch.nn.Linear or hooks:
        return None
    weight = head.weight  # of another class where it is quantized or spread over devices
    plain = type(weight) in (torch.nn.Parameter, torch.Tensor) and weight.is_floating_point() and not weight.is_meta
    return head if plain else None


def _wants_loss_alone(model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call of `forward` is a training step's, which looks at nothing but the loss.

    Trainer keeps ``labels`` back when it makes the loss itself out of logits (label smoothing, `compute_loss_func`).
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    return_dict = kwargs.get("return_dict")
    return (
        model.training
        and kwargs.get("labels") is not None
        and len(args) <= 1  # the model's own positional arguments are not those of its base
        and not {"logits_to_keep", "past_key_values", "ignore_index"} & kwargs.keys()
        and (model.config.return_dict if return_dict is None else return_dict)
        and model.loss_function is ForCausalLMLoss
    )


def _lean_output(
    model: PreTrainedModel,
    head: torch.nn.Linear,
    args: tuple[Any, ...],
    targets: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs: Any,
) -> CausalLMOutputWithPast:
    """What stock's `forward` returns, but for the logits; the loss is `ForCausalLMLoss`'s of `targets`, which are shifted."""
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from llmforge.cross_entropy import linear_cross_entropy

    made = model.base_model(*args, **kwargs)
    hidden = made.last_hidden_state
    unshard(head)  # which the norm before it has done already: they are in one group
    goals = targets.reshape(-1).to(hidden.device)
    total = linear_cross_entropy(hidden.reshape(-1, hidden.shape[-1]), head.weight, goals, IGNORE)
    count = (goals != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
    if torch.is_tensor(count):
        count = count.to(hidden.device)
    return CausalLMOutputWithPast(loss=total / count, hidden_states=made.hidden_states, attentions=made.attentions)


def install_losses(model: PreTrainedModel, lean: bool = True) -> PreTrainedModel:
    """Replace the instance's `forward` by one that trains and evaluates packed rows rightly.

    The class stays stock, and so does what is saved. Replacing `forward`, rather than
    `Trainer.compute_loss`, keeps the computation inside DDP's own forward.

    - ``loss_type`` is set: without it Trainer divides GPT-2's loss by one token a row too many.
    - With ``shift_labels`` the cache is off: a cache switches off the isolation of packed documents.
    - With ``labels`` as well, in training mode, the loss is the lean one: the same value and gradients,
      no ``logits`` in the output. A head that is wrapped (by peft, by hooks, quantized) keeps the stock loss.
    - With ``token_bytes`` it returns only ``row_sums``, for evaluation; with ``ordinals`` as well, ``segment_sums``.

    Args:
        model: GPT-2 or GPT-NeoX with a language modelling head; others keep the stock loss.
        lean: Whether the lean loss may be taken; kept as ``model.lean_loss``, where it can be switched.

    Returns:
        The same model; installing again changes `lean` and nothing else.
    """
    if hasattr(model, "get_base_model"):  # of peft, which hands every argument on
        install_losses(model.get_base_model(), lean)
        return model
    model.lean_loss = lean
    if lean and _plain_head(model) is None:
        logger.warning("the output head of %s is not a plain linear layer: the stock loss is used", type(model).__name__)
    if "forward" in vars(model):
        return model
    stock = type(model).forward

    @functools.wraps(stock)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        shift_labels: torch.Tensor | None = None,
        token_bytes: torch.Tensor | None = None,
        ordinals: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if shift_labels is None:
            return stock(self, *args, **kwargs)
        kwargs["use_cache"] = False
        if token_bytes is None:
            head = _plain_head(self) if self.lean_loss and _wants_loss_alone(self, args, kwargs) else None
            if head is not None:
                return _lean_output(self, head, args, shift_labels, **kwargs)
            return stock(self, *args, shift_labels=shift_labels, **kwargs)
        for name in ("labels", "num_items_in_batch"):
            kwargs.pop(name, None)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        if ordinals is not None:
            return {"row_sums": segment_sums(hidden, self.get_output_embeddings(), shift_labels, token_bytes, ordinals)}
        return {"row_sums": row_sums(hidden, self.get_output_embeddings(), shift_labels, token_bytes)}

    model.loss_type = "ForCausalLM"
    # Packed rows have no attention mask and may end in padding, which predicts nothing; the
    # stock look for it waits for the device at every step, to warn of what is meant to be.
    model.base_model.warn_if_padding_and_no_attention_mask = _no_warning
    model.forward = MethodType(forward, model)  # type: ignore[method-assign]
    return model
