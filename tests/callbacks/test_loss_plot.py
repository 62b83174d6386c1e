"""Pictures of the curves."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot
import pytest
from matplotlib.axes import Axes
from PIL import Image

from llmforge.callbacks.loss_plot import PICTURES, LossPlot, curve, plot_curves

pytestmark = pytest.mark.pictures

TRAIN = [{"step": step, "loss": 4 / step} for step in range(1, 30)]
BOTH = [*TRAIN, {"step": 10, "eval_loss": 1.5}, {"step": 20, "eval_loss": 1.2, "eval_runtime": 3.0}]


def plot_loss(history, path):
    """The picture of the loss alone, as `path`."""
    [drawn] = plot_curves(history, path.parent, ["loss"])
    return drawn.replace(path)


def test_a_curve_is_one_metric_of_the_history():
    assert curve(BOTH, "eval_loss") == ([10, 20], [1.5, 1.2])
    assert curve(BOTH, "loss")[0] == list(range(1, 30))
    assert curve([], "loss") == ([], [])


@pytest.mark.parametrize(
    "history",
    [
        [{"step": 1, "loss": 3.0}],
        TRAIN,
        BOTH,
        [{"step": 1, "eval_loss": 3.0}],
        [{"step": step, "loss": math.nan} for step in range(3)],
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": math.inf}],
        [{"step": 1, "eval_loss": math.nan}],
        [{"step": 1, "eval_loss": math.inf}, {"step": 2, "eval_loss": 2.0}],
    ],
    ids=["one", "many", "both", "validation", "all nan", "some nan", "nan validation", "infinite"],
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


RUN = [
    {"step": step, "loss": 9 / step**0.3, "learning_rate": 1e-3 * min(step / 20, 1), "grad_norm": 5 / step**0.5}
    for step in range(1, 300)
]
RUN += [{"step": step, "eval_loss": 9 / step**0.3, "eval_perplexity": math.exp(9 / step**0.3)} for step in (50, 150, 299)]


def test_four_pictures_of_a_whole_run(tmp_path):
    assert [path.name for path in plot_curves(RUN, tmp_path)] == [f"{name}.png" for name in PICTURES]
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 4


@pytest.mark.parametrize("history", [[], [{"step": 5, "train_runtime": 2.0}]])
def test_a_picture_without_a_point_is_not_drawn(tmp_path, history):
    assert plot_curves(history, tmp_path) == []
    assert [path.stem for path in plot_curves([{"step": 1, "learning_rate": 1.0}], tmp_path)] == ["learning_rate"]


def lines_drawn(monkeypatch, history, name, path):
    seen = {}
    stock = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, **style: seen.update({style["label"]: (list(y), style)}) or stock(self, x, y, **style)
    )
    plot_curves(history, path, [name])
    return seen


def test_training_and_validation_differ_in_more_than_colour(monkeypatch, tmp_path):
    lines = lines_drawn(monkeypatch, BOTH, "loss", tmp_path)
    (_, train), (_, validation) = lines["training"], lines["validation"]
    assert train["color"] != validation["color"]
    assert (train.get("linestyle"), train.get("marker")) != (validation["linestyle"], validation["marker"])


def test_perplexity_is_the_evaluation_s_own_and_the_exponential_of_training_s(monkeypatch, tmp_path):
    history = [{"step": 1, "loss": 1.0}, {"step": 1, "eval_loss": 2.0, "eval_perplexity": 8.5}]
    lines = lines_drawn(monkeypatch, history, "perplexity", tmp_path)
    assert lines["training"][0] == [math.e]
    assert lines["validation"][0] == [8.5]


def test_of_a_plain_trainer_s_evaluation_there_is_only_the_loss(monkeypatch, tmp_path):
    lines = lines_drawn(monkeypatch, [{"step": 1, "eval_loss": 2.0}], "perplexity", tmp_path)
    assert lines["validation"][0] == [math.exp(2.0)]


def test_a_long_noisy_curve_gets_a_running_mean_that_follows_it(monkeypatch, tmp_path):
    history = [{"step": step, "loss": 5.0 + (-1) ** step} for step in range(400)]
    lines = lines_drawn(monkeypatch, history, "loss", tmp_path)
    mean = lines["training, running mean"][0]
    assert len(mean) == 400
    assert all(abs(value - 5.0) < 0.3 for value in mean[20:])


def test_log_events_refresh_it_only_now_and_then(tmp_path, arguments, state, control):
    state.log_history = BOTH
    seldom, often = LossPlot(tmp_path / "seldom", seconds=3600), LossPlot(tmp_path / "often", seconds=0)
    for callback in (seldom, often):
        callback.on_train_begin(arguments, state, control)
        callback.on_log(arguments, state, control)
    assert not (tmp_path / "seldom").exists()
    assert (tmp_path / "often" / "loss.png").is_file()


def test_a_picture_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, arguments, state, control, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    (tmp_path / "plots").write_text("a file")
    state.log_history = BOTH
    LossPlot(tmp_path / "plots").on_evaluate(arguments, state, control)
    assert "could not be drawn" in caplog.text


def test_the_trackers_get_the_pictures_of_an_evaluation(tmp_path, arguments, state, control):
    seen = []
    callback = LossPlot(tmp_path)
    callback.attach(SimpleNamespace(trackers=SimpleNamespace(picture=lambda *call: seen.append(call))))
    state.log_history = RUN
    callback.on_evaluate(arguments, state, control)
    assert seen == [(f"plots/{name}", tmp_path / f"{name}.png", 20) for name in PICTURES]


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
