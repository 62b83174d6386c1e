"""From sums of segments to figures with confidence intervals, and what a compressor makes of the same bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

#: Of the intervals.
LEVEL = 0.95
RESAMPLES = 1000
#: From so many documents on they are what is resampled; of fewer, the pieces they were cut into.
_FEW = 10
_SEED = 0
#: The highest level that costs no unusual memory, and matches over 128 MiB.
_ZSTD_LEVEL, _ZSTD_WINDOW = 19, 27


@dataclass
class Figures:
    """How well a text was predicted.

    Attributes:
        loss: Nats a token.
        perplexity: Its exponential.
        bits_per_byte: Bits over the UTF-8 bytes of the predicted tokens, special tokens left out of both.
        accuracy: Share of the tokens that the model ranked first.
        top5_accuracy: Share that it ranked among the first five.
        tokens: Predicted ones; each document's end is one.
        bytes: That they stand for.
        documents: They are from.
        intervals: Low and high end by name, for loss, perplexity, bits per byte and the accuracies.
        resampled: What the bootstrap drew from: documents, or pieces where there are few.
        zstd_bytes: What zstd makes of the same bytes.
        zstd_bits_per_byte: The same, a byte.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    accuracy: float
    top5_accuracy: float
    documents: int
    zstd_bytes: int
    zstd_bits_per_byte: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    resampled: str = "documents"


def figures_of(sums: np.ndarray, document_of: np.ndarray, chosen: np.ndarray, zstd_bytes: int) -> Figures:
    """The figures of some documents.

    Args:
        sums: Of every segment, ``(segments, 6)`` with `llmforge.losses.SEGMENT_SUM_NAMES`.
        document_of: The document of each segment, ``(segments,)``.
        chosen: Which documents are meant, ``(documents,)``.
        zstd_bytes: What zstd makes of them.

    Returns:
        Point figures as `llmforge.metrics` defines them; intervals by the percentile bootstrap, always the same for
        the same sums. A text of one piece has none.
    """
    from llmforge.metrics import summarise

    own = chosen[document_of]
    sums, document_of = sums[own], document_of[own]
    point = summarise(sums[:, :5])
    documents = np.unique(document_of)
    units = np.zeros((len(documents), sums.shape[1]))
    np.add.at(units, np.searchsorted(documents, document_of), sums)
    resampled = "documents" if len(documents) >= _FEW else "pieces"
    return Figures(
        loss=point["loss"],
        perplexity=point["perplexity"],
        bits_per_byte=point["bits_per_byte"],
        tokens=int(point["tokens"]),
        bytes=int(point["bytes"]),
        accuracy=point["accuracy"],
        top5_accuracy=math.fsum(sums[:, 5]) / point["tokens"],
        documents=len(documents),
        zstd_bytes=zstd_bytes,
        zstd_bits_per_byte=8 * zstd_bytes / point["bytes"] if point["bytes"] else math.nan,
        intervals=_intervals(units if resampled == "documents" else sums),
        resampled=resampled,
    )


def _intervals(units: np.ndarray) -> dict[str, tuple[float, float]]:
    if len(units) < 2:
        return {}
    nll, tokens, correct, size, byte_nll, top5 = drawn(units).T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = {
            "loss": nll / tokens,
            "perplexity": np.exp(nll / tokens),
            "bits_per_byte": byte_nll / math.log(2) / size,
            "accuracy": correct / tokens,
            "top5_accuracy": top5 / tokens,
        }
    return {name: ends_of(value) for name, value in values.items()}


def drawn(units: np.ndarray) -> np.ndarray:
    """Sums over units that were drawn anew, always the same draws: ``(RESAMPLES, columns)`` of ``(units, columns)``."""
    source = np.random.default_rng(_SEED)
    count = len(units)
    return np.stack([np.bincount(source.integers(0, count, count), minlength=count) @ units for _ in range(RESAMPLES)])


def ends_of(values: np.ndarray) -> tuple[float, float]:
    """Low and high end of the percentile interval of resampled values."""
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL))).tolist()
    return low, high


def zstd_size(text: bytes) -> int:
    """Bytes that zstd makes of `text`, at level 19 with long-distance matching: a yardstick for bits per byte."""
    import zstandard

    settings = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVEL, window_log=_ZSTD_WINDOW, enable_ldm=True)
    return len(zstandard.ZstdCompressor(compression_params=settings).compress(text))
