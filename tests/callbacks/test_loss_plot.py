"""Pictures of the curves."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot
import pytest
from matplotlib.axes import Axes
from PIL import Image

from llmforge.callbacks.loss_plot import LossPlot, curve, plot_loss

TRAIN = [{"step": step, "loss": 4 / step} for step in range(1, 30)]
BOTH = [*TRAIN, {"step": 10, "eval_loss": 1.5}, {"step": 20, "eval_loss": 1.2, "eval_runtime": 3.0}]


def test_a_curve_is_one_metric_of_the_history():
    assert curve(BOTH, "eval_loss") == ([10, 20], [1.5, 1.2])
    assert curve(BOTH, "loss")[0] == list(range(1, 30))
    assert curve([], "loss") == ([], [])


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 3.0}],
        TRAIN,
        BOTH,
        [{"step": 1, "eval_loss": 3.0}],
        [{"step": 5, "train_runtime": 2.0}],
        [{"step": step, "loss": math.nan} for step in range(3)],
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": math.inf}],
        [{"step": 1, "eval_loss": math.nan}],
        [{"step": 1, "eval_loss": math.inf}, {"step": 2, "eval_loss": 2.0}],
    ],
    ids=["none", "one", "many", "both", "validation", "neither", "all nan", "some nan", "nan validation", "infinite"],
)
def test_a_picture_comes_out_of_any_history(tmp_path, history):
    path = plot_loss(history, tmp_path / "plots" / "loss.png")
    with Image.open(path) as picture:
        picture.verify()
    assert Image.open(path).size == (960, 540)
    assert [item.name for item in path.parent.iterdir()] == ["loss.png"]  # nothing half-written beside it


def annotations(monkeypatch, history, path):
    seen = []
    stock = Axes.annotate
    monkeypatch.setattr(
        Axes, "annotate", lambda self, text, xy, **kwargs: seen.append((text, xy)) or stock(self, text, xy, **kwargs)
    )
    plot_loss(history, path)
    return seen


def test_the_best_validation_loss_is_marked(monkeypatch, tmp_path):
    history = [{"step": step, "eval_loss": loss} for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5))]
    assert annotations(monkeypatch, history, tmp_path / "a.png") == [("best 2.000", (20, 2.0))]


def test_a_nan_is_not_the_best(monkeypatch, tmp_path):
    history = [{"step": step, "eval_loss": loss} for step, loss in ((10, math.nan), (20, 2.0), (30, 2.5))]
    assert annotations(monkeypatch, history, tmp_path / "a.png") == [("best 2.000", (20, 2.0))]


def test_a_new_picture_replaces_the_old_one(tmp_path):
    path = plot_loss(TRAIN[:3], tmp_path / "loss.png")
    before = path.read_bytes()
    plot_loss(BOTH, path)
    assert path.read_bytes() != before
    assert path.read_bytes() == plot_loss(BOTH, tmp_path / "again.png").read_bytes()


def test_the_user_s_own_figures_and_backend_are_left_alone(tmp_path):
    backend, figures = matplotlib.get_backend(), matplotlib.pyplot.get_fignums()
    plot_loss(BOTH, tmp_path / "loss.png")
    assert (matplotlib.get_backend(), matplotlib.pyplot.get_fignums()) == (backend, figures)


@pytest.mark.parametrize("hook", ["on_evaluate", "on_train_end"])
def test_it_is_drawn_at_evaluations_and_at_the_end(tmp_path, arguments, state, control, hook):
    state.log_history = BOTH
    getattr(LossPlot(tmp_path / "plots"), hook)(arguments, state, control)
    assert (tmp_path / "plots" / "loss.png").is_file()


def test_by_default_it_goes_to_the_output_folder(tmp_path, arguments, state, control):
    state.log_history = BOTH
    LossPlot().on_train_end(arguments, state, control)
    assert (tmp_path / "out" / "plots" / "loss.png").is_file()


def test_nothing_is_drawn_of_nothing(tmp_path, arguments, state, control):
    LossPlot(tmp_path / "plots").on_train_end(arguments, state, control)
    assert not (tmp_path / "plots").exists()


def test_other_processes_draw_nothing(tmp_path, arguments, another_process, control):
    another_process.log_history = BOTH
    LossPlot(tmp_path / "plots").on_train_end(arguments, another_process, control)
    assert not (tmp_path / "plots").exists()
