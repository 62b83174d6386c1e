"""Pictures of the curves, refreshed while the run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.runtime.logs import logger

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart; training and
# validation differ in line and mark as well.
_TRAIN, _VALIDATION, _BEST = "#0072B2", "#D55E00", "#009E73"
#: From so many points on, training's own line is faint and a running mean lies over it.
_SMOOTHED_FROM = 120
#: A logarithmic axis where the largest value is more than so many times the smallest: it has two labels then.
_WIDE = 20

Points = tuple[list[int], list[float]]


def curve(history: list[dict[str, Any]], key: str) -> Points:
    """Steps and values of one metric in a `TrainerState.log_history`."""
    points = [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]
    return [step for step, _ in points], [value for _, value in points]


@dataclass(frozen=True)
class _Picture:
    title: str
    unit: str
    train: str | None
    validation: str | None
    log_scale: bool = False


#: The pictures, by file name.
PICTURES = {
    "loss": _Picture("Loss", "loss (nats a token)", "loss", "eval_loss"),
    "perplexity": _Picture("Perplexity", "perplexity", "loss", "eval_perplexity", log_scale=True),
    "learning_rate": _Picture("Learning rate", "learning rate", "learning_rate", None),
    "grad_norm": _Picture("Gradient norm before clipping", "gradient norm", "grad_norm", None, log_scale=True),
}


def plot_curves(history: list[dict[str, Any]], folder: Path, names: Iterable[str] = tuple(PICTURES)) -> list[Path]:
    """Draw the curves of a `TrainerState.log_history` as PNGs in `folder`.

    Args:
        history: Log events; a picture without a single point is not drawn.
        folder: Made if need be; each file is replaced as a whole.
        names: Of `PICTURES`.

    Returns:
        The files, ``<name>.png``.
    """
    drawn = []
    for name in names:
        picture = PICTURES[name]
        train = curve(history, picture.train) if picture.train else ([], [])
        validation = curve(history, picture.validation) if picture.validation else ([], [])
        if name == "perplexity":
            train = train[0], [_exp(value) for value in train[1]]
            if not validation[0]:  # a plain Trainer's evaluation has a loss only
                steps, losses = curve(history, "eval_loss")
                validation = steps, [_exp(value) for value in losses]
        if train[0] or validation[0]:
            drawn.append(_draw(picture, train, validation, folder / f"{name}.png"))
    return drawn


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _draw(picture: _Picture, train: Points, validation: Points, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.92, bottom=0.11)  # to find that out for each doubles the time
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if len(train[0]) >= _SMOOTHED_FROM:
        axes.plot(*train, color=_TRAIN, linewidth=0.8, alpha=0.35, label="training")
        axes.plot(train[0], _running_mean(train[1]), color=_TRAIN, linewidth=1.8, label="training, running mean")
    elif train[0]:
        axes.plot(*train, color=_TRAIN, linewidth=1.6, label="training")
    if validation[0]:
        axes.plot(*validation, color=_VALIDATION, linewidth=1.6, linestyle="--", marker="o", markersize=5, label="validation")
        _mark_best(axes, *validation)
    positive = [value for value in (*train[1], *validation[1]) if value > 0 and math.isfinite(value)]
    if picture.log_scale and positive and max(positive) > _WIDE * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
    axes.set(xlabel="step", ylabel=picture.unit, title=picture.title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if validation[0]:
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


def _mark_best(axes: Any, steps: list[int], values: list[float]) -> None:
    axes.margins(y=0.12)  # the lowest point has its label beneath it, away from the curve that comes down to it
    best = min(range(len(values)), key=lambda i: values[i] if math.isfinite(values[i]) else math.inf)
    axes.annotate(
        f"best {values[best]:,.3f}",
        (steps[best], values[best]),
        xytext=(0, -9),
        textcoords="offset points",
        ha="right" if best and best == len(values) - 1 else "center",
        va="top",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        color=_BEST,
        fontweight="bold",
    )


def _running_mean(values: list[float]) -> list[float]:
    """An exponential mean over some fiftieth of the curve, without the bias of its start."""
    keep = 1 - 50 / max(len(values), 51)
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(mean / weight if weight else math.nan)
    return means


class LossPlot(TrainerCallback):
    """Draws loss, perplexity, learning rate and gradient norm; works with a plain `Trainer` too.

    At every evaluation, at the end, and in between at most once every `seconds` (drawing all
    four takes about half a second). Under `ForgeTrainer` the pictures of the evaluations also go to
    the trackers, as ``plots/<name>``. A picture that cannot be written does not end the run.

    Args:
        folder: Where the pictures go; by default ``plots`` in the Trainer's output folder.
        seconds: The least time between two refreshes by log events.
    """

    def __init__(self, folder: Path | None = None, seconds: float = 120.0):
        self.folder = folder
        self.seconds = seconds
        self._drawn = 0.0
        self._points = 0
        self._tracked = 0
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Called by `ForgeTrainer` with itself."""
        self._trainer = trainer

    def _draw(self, args: TrainingArguments, state: TrainerState, track: bool) -> None:
        points = sum("loss" in entry or "eval_loss" in entry for entry in state.log_history)
        if not state.is_world_process_zero or points == (self._tracked if track else self._points):
            return  # as at the end of a training that ends with an evaluation
        self._points, self._tracked = points, points if track else self._tracked
        try:
            paths = plot_curves(state.log_history, self.folder or Path(args.output_dir or ".") / "plots")
        except OSError as error:
            logger.warning("the curves could not be drawn: %s", error)
            paths = []
        self._drawn = time.monotonic()
        for path in paths:
            if track and self._trainer is not None:
                self._trainer.trackers.picture(f"plots/{path.stem}", path, state.global_step)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._drawn = time.monotonic()
        self._points = self._tracked = 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if time.monotonic() - self._drawn >= self.seconds:
            self._draw(args, state, track=False)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(args, state, track=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(args, state, track=True)
