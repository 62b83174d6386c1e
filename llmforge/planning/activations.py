"""What the forward pass keeps for the backward pass, and what the backward pass makes besides.

Counted from the models' own operations (transformers 5.23), tensor by tensor; benchmarks/plan.py and the
tests compare the sums with what is really held. Bytes, for so many tokens of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmforge.planning.shapes import Shape

#: Tensors of the inner width that an activation keeps besides its result, which the next matrix needs: `gelu_new` is
#: written out in transformers (x, 0.5 x, tanh, 1 + tanh), the others are one kernel of torch's.
_KEPT = {"gelu_new": 4.0, "relu": 0.0, "tanh": 0.0, "sigmoid": 0.0, "gelu_fast": 6.0, "quick_gelu": 2.0}
#: The same while its gradient is made.
_MADE = {"gelu_new": 2.0, "relu": 2.0}
#: `gelu_new` under autocast on a GPU, where powers are taken in fp32: x, tanh and 1 + tanh in fp32, 0.5 x and the result
#: in half, in bytes an entry. By autocast's rules; not tried on hardware.
_GELU_NEW_GPU = 16

#: Tensors of the width that attention keeps, its result included where a copy of it goes on. By document, query, key and
#: value are gathered into calls; otherwise GPT-NeoX's lie beside the product they are cut from.
_ATTENTION = {
    ("segments", "GPT-2"): 4,
    ("segments", "GPT-NeoX"): 4,
    ("varlen", "GPT-2"): 3,
    ("varlen", "GPT-NeoX"): 5,
    ("mask", "GPT-2"): 3,
    ("mask", "GPT-NeoX"): 6,
}
#: Ids, labels, shifted labels and positions of a token, int64.
ID_BYTES = 32


@dataclass(frozen=True)
class Batch:
    """One micro-batch and how it is computed.

    Attributes:
        rows: Of the micro-batch.
        length: Tokens of a row.
        half: Whether matrices are multiplied in bf16 or fp16, under autocast.
        attention: ``segments``, ``varlen`` or ``mask``, as ``--packed_attention``.
        gpu: Whether it runs on a GPU.
        checkpointed: Every so many layers keep only their input (``--activation_checkpointing``); 0 for none.
    """

    rows: int
    length: int
    half: bool = False
    attention: str = "segments"
    gpu: bool = False
    checkpointed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch, padding included."""
        return self.rows * self.length

    @property
    def element(self) -> int:
        """Bytes of a number that matrices are multiplied in."""
        return 2 if self.half else 4


def layer_bytes(shape: Shape, batch: Batch) -> int:
    """What one block keeps.

    Residual streams and the statistics of the two layer norms are in fp32; the inputs of the three matrices
    that follow a norm or the attention, and what attention keeps, are in what is multiplied in.
    """
    size, width, inner = batch.element, shape.width, shape.inner
    a_token: float = 4 * width * (1 if shape.parallel else 2) + 16 + 3 * size * width
    a_token += _ATTENTION[batch.attention, shape.family] * size * width + 4 * shape.heads
    if shape.activation == "gelu_new" and batch.half and batch.gpu:
        a_token += _GELU_NEW_GPU * inner
    else:
        a_token += (1 + _KEPT.get(shape.activation, 1.0)) * size * inner
    if shape.dropout:  # a GPU's kernel keeps a byte, a CPU's the factor
        a_token += 2 * width * (1 if batch.gpu else size)
    if shape.attention_dropout and not batch.gpu:  # no kernel: the weights of documents as long as a row, three times
        a_token += 3 * size * shape.heads * batch.length
    return int(a_token * batch.tokens)


def kept_bytes(shape: Shape, batch: Batch) -> int:
    """What all blocks keep at the end of the forward pass, with the ids and the mask."""
    spared = shape.layers // batch.checkpointed if batch.checkpointed else 0
    kept = (shape.layers - spared) * layer_bytes(shape, batch) + spared * 4 * shape.width * batch.tokens
    return kept + ID_BYTES * batch.tokens + (batch.tokens * batch.length if batch.attention == "mask" else 0)


def backward_bytes(shape: Shape, batch: Batch) -> int:
    """What the backward pass through one block makes at its most, gradients of weights apart; with checkpointing the
    block's own activations as well, which are made again."""
    made = _MADE.get(shape.activation, 1.0) * shape.inner * batch.element * batch.tokens
    return int(made) + (layer_bytes(shape, batch) if batch.checkpointed else 0)


def inference_bytes(shape: Shape, batch: Batch) -> int:
    """What a forward pass holds at a time where nothing is kept: two residuals, and three tensors inside of one block."""
    return int(batch.tokens * (8 * shape.width + batch.element * max(3 * shape.inner, 5 * shape.width))) + ID_BYTES * batch.tokens
