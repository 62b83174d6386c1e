"""What a tracker can show besides numbers, drawn the same for TensorBoard and for W&B.

Each kind is a copy of what was given, small enough to wait in a queue, and is turned into what a
tracker takes in that tracker's own thread.
"""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

#: Bins of a histogram, the number that W&B uses by default.
BINS = 64


class Medium(Protocol):
    """One thing to show."""

    def to_tensorboard(self, writer: Any, name: str, step: int) -> None:
        """Write it with a `SummaryWriter` under exactly `name`."""

    def to_wandb(self) -> Any:
        """It as `wandb.log` takes it."""


@dataclass(frozen=True)
class Text:
    """Plain text, shown as it is: spaces, line ends and ``<tags>`` included."""

    text: str

    def to_tensorboard(self, writer: Any, name: str, step: int) -> None:
        from torch.utils.tensorboard.summary import text

        # TensorBoard reads Markdown, in which an indented line is taken literally.
        summary = text(name, "\n".join(f"    {line}" for line in self.text.split("\n")))
        summary.value[0].tag = name  # torch adds /text_summary, and the name would be another one than in W&B
        writer.file_writer.add_summary(summary, step)

    def to_wandb(self) -> Any:
        import wandb

        return wandb.Html(f'<pre style="white-space: pre-wrap">{html.escape(self.text)}</pre>')


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG file; the file itself may be written anew before they are shown."""

    png: bytes

    @classmethod
    def read(cls, path: Path | str) -> Picture:
        """The picture in a file."""
        return cls(Path(path).read_bytes())

    def _pixels(self) -> np.ndarray:
        from matplotlib.image import imread

        pixels: np.ndarray = imread(io.BytesIO(self.png), format="png")
        return np.rint(pixels * 255).astype(np.uint8) if pixels.dtype.kind == "f" else pixels

    def to_tensorboard(self, writer: Any, name: str, step: int) -> None:
        pixels = self._pixels()
        writer.add_image(name, pixels, step, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def to_wandb(self) -> Any:
        import wandb

        return wandb.Image(self._pixels())


@dataclass(frozen=True)
class Histogram:
    """How values are spread, in `BINS` bins of equal width between the lowest and the highest finite one.

    Attributes:
        counts: Values a bin.
        edges: The bins' edges, one more than there are bins.
        total: Sum of the values.
        squares: Sum of their squares.
    """

    counts: np.ndarray
    edges: np.ndarray
    total: float
    squares: float

    @classmethod
    def of(cls, values: Any) -> Histogram | None:
        """Count a tensor, an array or a list; None where no value is finite."""
        flat = torch.as_tensor(values).detach().flatten().to("cpu", torch.float32)
        flat = flat[torch.isfinite(flat)]
        if not len(flat):
            return None
        low, high = float(flat.min()), float(flat.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        counts = torch.histc(flat, BINS, low, high).numpy().astype(np.int64)
        return cls(counts, np.linspace(low, high, BINS + 1), float(flat.double().sum()), float(flat.double().square().sum()))

    def to_tensorboard(self, writer: Any, name: str, step: int) -> None:
        low, high, number = float(self.edges[0]), float(self.edges[-1]), int(self.counts.sum())
        limits, counts = self.edges[1:].tolist(), self.counts.tolist()
        writer.add_histogram_raw(name, low, high, number, self.total, self.squares, limits, counts, step)

    def to_wandb(self) -> Any:
        import wandb

        return wandb.Histogram(np_histogram=(self.counts, self.edges))
