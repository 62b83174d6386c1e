"""From sums to loss, perplexity, bits per byte and accuracy: one division each, at the very end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def summarise(sums: np.ndarray) -> dict[str, float]:
    """Metrics of an evaluation from its per-row sums.

    Args:
        sums: ``(rows, 5)`` with the columns of `llmforge.losses.SUM_NAMES`.

    Returns:
        ``loss`` (nats a target), ``perplexity`` (its exponential), ``bits_per_byte`` (bits over the
        UTF-8 bytes of the predicted tokens, special tokens left out of both; comparable between
        tokenizers), ``accuracy`` (share of targets ranked first), ``tokens`` and ``bytes``.
        With no target at all every ratio is NaN.
    """
    nll, tokens, correct, size, byte_nll = (float(value) for value in sums.reshape(-1, 5).sum(axis=0))
    loss = nll / tokens if tokens else math.nan
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf if loss == loss else math.nan,
        "bits_per_byte": byte_nll / math.log(2) / size if size else math.nan,
        "accuracy": correct / tokens if tokens else math.nan,
        "tokens": int(tokens),
        "bytes": int(size),
    }
