"""From sums to perplexity, bits per byte and accuracy: one division each, at the very end.

The metrics are `evaluate.Metric`s, so that they also work alone and in `evaluate.combine`, offline:

```python
from llmforge.metrics import Perplexity

metric = Perplexity()
metric.add_batch(nll=[8.0, 2.0], tokens=[4, 1])
metric.compute()  # {'loss': 2.0, 'perplexity': 7.39, 'tokens': 5}
```

What goes in are sums of rows, `llmforge.losses.row_sums`. Sums are added up exactly
(`math.fsum`), so that neither the batch size nor the number of processes changes a digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

if TYPE_CHECKING:
    import numpy as np

#: The columns of an evaluation's sums, `llmforge.losses.SUM_NAMES`.
_COLUMNS = ("nll", "tokens", "correct", "bytes", "byte_nll")
_CITATION = "llmforge, docs/concepts/correctness.md"


class _RowMetric(evaluate.Metric):
    """A metric over sums of rows, held in memory: no lock, no file to leave behind."""

    description = ""
    inputs: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
        super().__init__(*args, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes this folder even for metrics in memory; a read-only home must not end a run.
        return str(self._data_dir_root) if self.keep_in_memory else str(super()._build_data_dir())

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=_CITATION,
            inputs_description=f"Sums of rows: {', '.join(self.inputs)}.",
            features=datasets.Features({name: datasets.Value("float64") for name in self.inputs}),
        )


class Perplexity(_RowMetric):
    """``loss`` (nats a target), ``perplexity`` (its exponential) and ``tokens`` (targets).

    Inputs: ``nll``, negative log-likelihood of each row's targets in nats, and ``tokens``, their number.
    """

    description = "The exponential of the mean negative log-likelihood of a target."
    inputs = ("nll", "tokens")

    def _compute(self, nll: Sequence[float], tokens: Sequence[float], **_: Any) -> dict[str, float]:
        count = math.fsum(tokens)
        loss = math.fsum(nll) / count if count else math.nan
        perplexity = math.exp(loss) if loss < 700 else math.inf if loss == loss else math.nan
        return {"loss": loss, "perplexity": perplexity, "tokens": int(count)}


class BitsPerByte(_RowMetric):
    """``bits_per_byte``, which compares models with different tokenizers, and ``bytes``.

    Inputs: ``byte_nll``, negative log-likelihood in nats of the targets that stand for bytes
    (special tokens do not), and ``bytes``, the UTF-8 bytes of these targets.
    """

    description = "Bits over the UTF-8 bytes of the predicted tokens, special tokens left out of both."
    inputs = ("byte_nll", "bytes")

    def _compute(self, byte_nll: Sequence[float], bytes: Sequence[float], **_: Any) -> dict[str, float]:
        size = math.fsum(bytes)
        return {"bits_per_byte": math.fsum(byte_nll) / math.log(2) / size if size else math.nan, "bytes": int(size)}


class TokenAccuracy(_RowMetric):
    """``accuracy``: the share of targets that the model ranked first.

    Inputs: ``correct``, targets of each row ranked first, and ``tokens``, their number.
    """

    description = "The share of targets that the model ranked first."
    inputs = ("correct", "tokens")

    def _compute(self, correct: Sequence[float], tokens: Sequence[float], **_: Any) -> dict[str, float]:
        count = math.fsum(tokens)
        return {"accuracy": math.fsum(correct) / count if count else math.nan}


def summarise(sums: np.ndarray) -> dict[str, float]:
    """Metrics of an evaluation from its per-row sums.

    Args:
        sums: ``(rows, 5)`` with the columns of `llmforge.losses.SUM_NAMES`.

    Returns:
        ``loss``, ``perplexity``, ``tokens``, ``bits_per_byte``, ``bytes`` and ``accuracy``, as
        `Perplexity`, `BitsPerByte` and `TokenAccuracy` define them. With no target at all every
        ratio is NaN.
    """
    together = evaluate.combine([Perplexity(), BitsPerByte(), TokenAccuracy()])
    columns = sums.reshape(-1, len(_COLUMNS)).astype("float64").T
    together.add_batch(**dict(zip(_COLUMNS, columns, strict=True)))
    return together.compute()
