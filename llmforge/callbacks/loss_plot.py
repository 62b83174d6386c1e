"""Pictures of the curves, refreshed while the run goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart.
_TRAIN, _VALIDATION, _BEST = "#0072B2", "#D55E00", "#009E73"


def curve(history: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric in a `TrainerState.log_history`."""
    points = [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]
    return [step for step, _ in points], [value for _, value in points]


def plot_loss(history: list[dict[str, Any]], path: Path) -> Path:
    """Draw training and validation loss over the steps into a PNG at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps, losses = curve(history, "loss")
    if steps:
        axes.plot(steps, losses, color=_TRAIN, linewidth=1.6, label="training")
    steps, losses = curve(history, "eval_loss")
    if steps:
        axes.plot(steps, losses, color=_VALIDATION, linewidth=1.6, linestyle="--", marker="o", markersize=5, label="validation")
        best = min(range(len(losses)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
        axes.annotate(
            f"best {losses[best]:.3f}",
            (steps[best], losses[best]),
            xytext=(0, 12),
            textcoords="offset points",
            ha="right" if best and best == len(losses) - 1 else "center",
            color=_BEST,
            fontweight="bold",
        )
    axes.set(xlabel="step", ylabel="loss (nats a token)", title="Loss")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


class LossPlot(TrainerCallback):
    """Draws ``plots/loss.png`` at every evaluation and at the end; works with a plain `Trainer` too.

    Args:
        folder: Where the picture goes; by default ``plots`` in the Trainer's output folder.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def _draw(self, args: TrainingArguments, state: TrainerState) -> None:
        if state.is_world_process_zero and state.log_history:
            plot_loss(state.log_history, (self.folder or Path(args.output_dir or ".") / "plots") / "loss.png")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(args, state)
