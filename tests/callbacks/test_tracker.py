"""Trackers in threads of their own: what they write is stock's, and none of them can stop or hold a run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tensorboard_events, tensorboard_scalars, wandb_history
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator
from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from llmforge.callbacks import tracker as module
from llmforge.callbacks.tracker import Tracker, Trackers, close_trackers

pytestmark = pytest.mark.pictures


class Recorder(TrainerCallback):
    """A stock callback that is slow, broken or hanging in one of its hooks."""

    def __init__(self, on: str = "", does=lambda: None):
        self.on, self.does = on, does
        self.seen: list[tuple] = []

    def _note(self, event, state, control, **kwargs):
        if event == self.on:
            self.does()
        self.seen.append((event, state.global_step, state.is_world_process_zero, kwargs.get("logs")))

    def on_train_begin(self, args, state, control, **kwargs):
        self._note("on_train_begin", state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._note("on_log", state, control, logs=logs)
        control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._note("on_train_end", state, control, **kwargs)


class Arguments:
    """What stock callbacks read of TrainingArguments."""

    def __init__(self, folder: Path):
        self.output_dir, self.run_name = str(folder), "a-run"

    def to_dict(self):
        return {"output_dir": self.output_dir}

    def to_json_string(self):
        return "{}"


@pytest.fixture
def forever():
    """A wait that nothing ends before the test does."""
    end = threading.Event()
    yield end.wait
    end.set()


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.WARNING, "llmforge")
    return lambda: caplog.messages


@pytest.fixture(autouse=True)
def none_left_over():
    yield
    close_trackers()
    assert module._running == []


@pytest.fixture
def run(arguments, state, control):
    """Call one hook, or a whole run's."""

    def call(tracker, *events, **kwargs):
        for event in events:
            getattr(tracker, event)(arguments, state, control, **kwargs)

    return call


# --- the thread ---


def test_hooks_run_in_order_and_not_in_this_thread(run):
    threads = set()
    stock = Recorder("on_log", lambda: threads.add(threading.current_thread().name))
    tracker = Tracker(stock)
    run(tracker, "on_train_begin")
    for value in range(50):
        run(tracker, "on_log", logs={"loss": value})
    run(tracker, "on_train_end")
    assert [event for event, *_ in stock.seen] == ["on_train_begin", *["on_log"] * 50, "on_train_end"]
    assert [logs["loss"] for *_, logs in stock.seen[1:-1]] == list(range(50))
    assert threads == {f"tracker-{tracker.name}"}


def test_a_hook_sees_what_was_when_it_was_called(run, state, control, arguments):
    """The training loop goes on changing the same objects."""
    gate = threading.Event()
    stock = Recorder("on_log", gate.wait)
    tracker = Tracker(stock)
    run(tracker, "on_train_begin")
    logs = {"loss": 1.0}
    run(tracker, "on_log", logs=logs)
    logs["loss"] = 2.0
    state.global_step += 7
    state.is_world_process_zero = False
    gate.set()
    tracker.close()
    assert stock.seen[-1] == ("on_log", 20, True, {"loss": 1.0})
    assert not control.should_training_stop  # a tracker does not steer


def test_the_history_is_not_copied(run, state):
    state.log_history = [{"step": number} for number in range(1000)]
    seen = []

    class Reader(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            seen.append(state.log_history)

    tracker = Tracker(Reader())
    run(tracker, "on_log", logs={})
    tracker.close()
    assert seen[0] is state.log_history


def test_nothing_is_queued_for_hooks_the_callback_does_not_have(run):
    tracker = Tracker(Recorder())
    run(tracker, "on_step_begin", "on_step_end", "on_substep_end", "on_evaluate")
    assert tracker._thread is None


def test_another_process_s_state_reaches_stock_as_it_is(run, another_process):
    stock = Recorder()
    run(Tracker(stock), "on_train_begin", "on_train_end")
    assert [flag for _, _, flag, _ in stock.seen] == [False, False]


# --- failing and hanging ---


def test_mode_24_a_hook_that_raises_switches_the_tracker_off_with_one_warning(run, told):
    def fail():
        raise ConnectionError("the server\nis gone")

    stock = Recorder("on_log", fail)
    tracker = Tracker(stock)
    run(tracker, "on_train_begin")
    for _ in range(5):
        run(tracker, "on_log", logs={"loss": 1.0})
    run(tracker, "on_train_end")
    tracker.close(0)
    assert told() == [f"{tracker.name} is switched off, the run goes on without it: on_log: ConnectionError: the server is gone"]
    assert [event for event, *_ in stock.seen] == ["on_train_begin"]


def test_the_warning_holds_no_secret(run, told, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    def fail():
        raise ValueError(f"bad key {'k' * 40}")

    run(Tracker(Recorder("on_train_begin", fail)), "on_train_begin")
    assert "bad key <redacted>" in told()[0]
    assert "k" * 40 not in told()[0]


@pytest.mark.parametrize("hangs", ["on_train_begin", "on_log", "on_train_end"])
def test_mode_24_a_hook_that_hangs_is_given_up_with_one_warning(hangs, run, told, forever):
    tracker = Tracker(Recorder(hangs, forever), start_seconds=0.2, end_seconds=0.2)
    run(tracker, "on_train_begin")
    for _ in range(5):
        run(tracker, "on_log", logs={"loss": 1.0})
    run(tracker, "on_train_end")
    tracker.close()
    where = "on_train_begin" if hangs == "on_train_begin" else "on_train_end"
    assert told() == [f"{tracker.name} is switched off, the run goes on without it: no answer within 0.2 s at {where}"]


def test_one_that_was_given_up_and_fails_later_is_told_of_once(run, told):
    gate = threading.Event()

    def fail():
        gate.wait()
        raise ConnectionError("timed out at last")

    tracker = Tracker(Recorder("on_train_begin", fail), start_seconds=0.2)
    run(tracker, "on_train_begin")
    gate.set()
    tracker.close()
    tracker._thread.join(10)
    assert not tracker._thread.is_alive()
    assert len(told()) == 1


def test_training_is_not_waited_for_in_between(run, told, forever):
    """A hang in the middle costs nothing there; what does not fit the queue is dropped and counted."""
    tracker = Tracker(Recorder("on_log", forever), end_seconds=0.2, capacity=3)
    run(tracker, "on_train_begin")
    for _ in range(10):
        run(tracker, "on_log", logs={"loss": 1.0})
    assert not tracker.off
    assert tracker.dropped in (6, 7)  # one is being worked on, unless the thread has not come to it yet
    run(tracker, "on_train_end")
    tracker.close()
    assert "does not keep up" in told()[0]
    assert "no answer" in told()[1]
    assert told()[2].endswith(f"{tracker.dropped} events were dropped, it could not keep up")


def test_a_slow_tracker_gets_all_of_it_at_the_end(run, told):
    stock = Recorder("on_log", lambda: time.sleep(0.02))
    tracker = Tracker(stock)
    run(tracker, "on_train_begin")
    for _ in range(20):
        run(tracker, "on_log", logs={})
    run(tracker, "on_train_end")
    assert [event for event, *_ in stock.seen].count("on_log") == 20
    assert told() == []


def test_a_closed_tracker_ignores_what_comes_later(run):
    stock = Recorder()
    tracker = Tracker(stock)
    run(tracker, "on_train_begin", "on_train_end")
    close_trackers(0)
    run(tracker, "on_log", "on_train_begin", logs={})
    assert len(stock.seen) == 2
    tracker._thread.join(10)
    assert not tracker._thread.is_alive()


def test_one_that_hangs_does_not_keep_the_others_from_working(run, forever, told):
    bad, good = Recorder("on_train_begin", forever), Recorder()
    trackers = [Tracker(bad, start_seconds=0.2), Tracker(good)]
    for event in ("on_train_begin", "on_log", "on_train_end"):
        for tracker in trackers:
            run(tracker, event, logs={})
    assert len(good.seen) == 3
    assert len(told()) == 1


# --- TensorBoard and W&B show the same ---


@pytest.fixture
def both(tmp_path, monkeypatch, state, control):
    """TensorBoard and offline W&B, in `tmp_path`, behind one `Trackers`."""
    import wandb

    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    handler = type("Handler", (), {"callbacks": [TrainerCallback(), TensorBoardCallback(), WandbCallback()]})()
    trackers = Trackers.install(handler)
    arguments = Arguments(tmp_path / "run")

    def call(event, step, **kwargs):
        state.global_step = step
        for callback in handler.callbacks:
            getattr(callback, event)(arguments, state, control, model=None, **kwargs)

    def end(exit_code=0):
        close_trackers(exit_code)
        wandb.teardown()  # what finish() has handed over is written when the service ends

    call.trackers, call.handler, call.folder, call.end = trackers, handler, tmp_path, end
    yield call
    close_trackers(0)
    wandb.teardown()


def test_stock_callbacks_are_wrapped_in_their_places(both):
    plain, tensorboard, wandb = both.handler.callbacks
    assert type(plain) is TrainerCallback
    assert [type(tensorboard), type(wandb)] == [Tracker, Tracker]
    assert (tensorboard.name, wandb.name) == ("tensorboard", "wandb")
    assert both.trackers.trackers == (tensorboard, wandb)


def test_scalars_have_the_same_names_steps_and_values(both):
    both("on_train_begin", 0)
    both("on_log", 1, logs={"loss": 2.5, "learning_rate": 0.5})
    both("on_log", 2, logs={"loss": 2.25, "learning_rate": 0.25})
    both("on_log", 2, logs={"eval_loss": 2.0})
    both("on_predict", 2, metrics={"test_loss": 1.5})
    both("on_train_end", 2)
    both.end(0)
    expected = {
        "train/loss": [(1, 2.5), (2, 2.25)],
        "train/learning_rate": [(1, 0.5), (2, 0.25)],
        "eval/loss": [(2, 2.0)],
        "test/loss": [(2, 1.5)],
    }
    assert tensorboard_scalars(both.folder / "logs") == expected
    assert wandb_history(both.folder) == expected


def test_texts_pictures_and_histograms_have_the_same_names(both):
    from llmforge.callbacks.loss_plot import plot_curves

    [picture] = plot_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], both.folder / "plots", ["loss"])
    sample = 'func f() {\n\treturn "<b>"\n\n# no heading\n}'
    weights = torch.tensor([-1.0, 0.0, 0.0, 3.0, float("nan")], requires_grad=True)
    both("on_train_begin", 0)
    both.trackers.text("samples/greedy/0", sample, 3)
    both.trackers.picture("plots/loss", picture, 3)
    both.trackers.histogram("histograms/h.0.weight", weights, 3)
    picture.write_bytes(b"written anew meanwhile")
    both("on_train_end", 3)
    both.end(0)

    events = tensorboard_events(both.folder / "logs")
    assert "samples/greedy/0" in events.Tags()["tensors"]
    (event,) = events.Tensors("samples/greedy/0")
    assert event.step == 3
    shown = event.tensor_proto.string_val[0].decode().split("\n")
    assert all(line.startswith("    ") for line in shown)  # literal in Markdown
    assert "\n".join(line[4:] for line in shown) == sample
    (event,) = events.Images("plots/loss")
    assert (event.step, event.width, event.height) == (3, 960, 540)
    (event,) = events.Histograms("histograms/h.0.weight")
    histogram = event.histogram_value
    assert (histogram.min, histogram.max, histogram.num, histogram.sum, histogram.sum_squares) == (-1, 3, 4, 2, 10)

    history = wandb_history(both.folder)
    files = next(both.folder.glob("wandb/offline-run-*")) / "files"
    ((step, path),) = history["samples/greedy/0/path"]
    assert step == 3
    page = (files / path).read_text()
    assert 'func f() {\n\treturn "<b>"' in page.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert "<b>" not in page
    ((step, path),) = history["plots/loss/path"]
    assert (step, history["plots/loss/width"], history["plots/loss/height"]) == (3, [(3, 960)], [(3, 540)])
    assert (files / path).read_bytes()[:4] == b"\x89PNG"
    ((step, counts),) = history["histograms/h.0.weight/values"]
    assert (step, sum(counts), counts[0], counts[-1]) == (3, 4, 1, 1)
    assert counts == [int(count) for count in histogram.bucket]


def test_what_comes_after_training_is_shown_too(both):
    """A sample of the final model, say; stock has closed TensorBoard's writer by then."""
    both("on_train_begin", 0)
    both("on_train_end", 3)
    both.trackers.text("samples/final", "x", 3)
    both.end(0)
    assert [event.step for event in tensorboard_events(both.folder / "logs").Tensors("samples/final")] == [3]
    assert [step for step, _ in wandb_history(both.folder)["samples/final/path"]] == [3]


def test_pictures_are_pixel_for_pixel_the_file(both):
    import io

    from matplotlib.image import imread, imsave

    pixels = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    imsave(both.folder / "a.png", pixels)
    both("on_train_begin", 0)
    both.trackers.picture("a", both.folder / "a.png", 1)
    both("on_train_end", 1)
    both.end(0)
    (event,) = tensorboard_events(both.folder / "logs").Images("a")
    path = next(both.folder.glob("wandb/offline-run-*/files/media/images/a_*.png"))
    for data in (event.encoded_image_string, path.read_bytes()):
        assert (np.rint(imread(io.BytesIO(data), format="png")[..., :3] * 255) == pixels).all()


def test_a_run_s_failure_is_in_wandb_s_record(both):
    from helpers import wandb_records

    both("on_train_begin", 0)
    both("on_log", 1, logs={"loss": 2.5})
    both.end(6)
    ends = [record.exit.exit_code for record in wandb_records(both.folder) if record.WhichOneof("record_type") == "exit"]
    assert ends == [6]


def test_a_wandb_run_of_the_user_s_own_is_left_open(both):
    import wandb

    own = wandb.init(project="theirs")
    both("on_train_begin", 0)
    both("on_train_end", 1)
    close_trackers(0)
    assert wandb.run is own
    own.finish()


def test_what_cannot_be_shown_is_no_failure(both, told):
    both("on_train_begin", 0)
    both.trackers.picture("plots/none", both.folder / "none.png", 1)
    both.trackers.histogram("histograms/none", torch.full((3,), float("nan")), 1)
    both.trackers.histogram("histograms/one", [2.0, 2.0], 1)
    both.trackers.text("later", "x", 1)
    both("on_train_end", 1)
    both.end(0)
    assert len(told()) == 1
    assert "none.png cannot be shown" in told()[0]
    events = tensorboard_events(both.folder / "logs")
    assert events.Tags()["histograms"] == ["histograms/one"]
    assert "later" in events.Tags()["tensors"]


def test_other_processes_and_other_trackers_show_nothing(run, another_process, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    tensorboard, other = Tracker(TensorBoardCallback()), Tracker(Recorder())
    trackers = Trackers([tensorboard, other])
    run(tensorboard, "on_train_begin")
    trackers.text("a", "b", 1)
    another_process.is_world_process_zero = True
    run(other, "on_train_begin")
    trackers.text("a", "b", 1)
    close_trackers()
    assert not (tmp_path / "logs").exists()


def test_without_trackers_nothing_is_read(tmp_path):
    Trackers().picture("a", tmp_path / "none.png", 1)
    Trackers().histogram("a", object(), 1)
    Trackers().text("a", "b", 1)


@pytest.mark.parametrize(("resumed_from", "kept"), [(2, [1, 2, 3]), (0, [3])])
def test_tensorboard_forgets_what_is_done_again(resumed_from, kept, tmp_path, monkeypatch, control):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    arguments = Arguments(tmp_path)

    def part(start: int, steps: range, value: float):
        tracker = Tracker(TensorBoardCallback())
        state = TrainerState(global_step=start)
        tracker.on_train_begin(arguments, state, control)
        for step in steps:
            state.global_step = step
            tracker.on_log(arguments, state, control, logs={"loss": value})
            Trackers([tracker]).text("sample", f"{value}", step)
        tracker.close()

    part(0, range(1, 6), 1.0)
    # Event files are read in the order of their names, which begin with the second.
    time.sleep(1.1 - time.time() % 1)
    part(resumed_from, range(3, 4), 2.0)
    assert tensorboard_scalars(tmp_path / "logs")["train/loss"] == [(step, 2.0 if step == 3 else 1.0) for step in kept]
    # The reader for scripts forgets no texts; TensorBoard's own does.
    events = PluginEventAccumulator(str(tmp_path / "logs"), tensor_size_guidance={"text": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("sample")] == kept


# --- a server that takes connections and never answers ---


@pytest.fixture
def black_hole():
    """The address of a server that takes connections and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    taken = []

    def take():
        try:
            while True:
                taken.append(listener.accept())
        except OSError:
            pass

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection, _ in taken:
        connection.close()


PROGRAM = """
import sys
from pathlib import Path
import psutil
from transformers import TrainerControl, TrainerState
from transformers.integrations.integration_utils import WandbCallback
sys.path.insert(0, sys.argv[1])
from callbacks.test_tracker import Arguments
from llmforge.callbacks.tracker import Tracker

tracker, state, control = Tracker(WandbCallback(), float(sys.argv[2]), 3), TrainerState(), TrainerControl()
tracker.on_train_begin(Arguments(Path("run")), state, control, model=None)
for child in psutil.Process().children():
    if child.name() == "wandb-core":
        print(child.pid, flush=True)
        if "suspend" in sys.argv:
            child.suspend()
for event in ("on_log", "on_train_end"):
    getattr(tracker, event)(Arguments(Path("run")), state, control, model=None, logs={"loss": 1.0})
print("the end")
"""


def program(*arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Run a small training's hooks in a process that calls no `close`; returns its exit code and what it wrote."""
    # Into files: a service that is left behind would keep a pipe open.
    with open("out", "w") as out, open("err", "w") as err:
        try:
            ended = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(Path(__file__).parent.parent), *arguments],
                env=os.environ | environment,
                stdout=out,
                stderr=err,
                timeout=300,
            )
        finally:
            for line in Path("out").read_text().splitlines():
                if line.isdigit():  # a service that was stopped does not see that its process has ended
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(line), signal.SIGKILL)
    return ended.returncode, Path("out").read_text().splitlines(), Path("err").read_text()


@pytest.mark.slow
def test_the_process_ends_though_wandb_s_server_never_answers(black_hole, tmp_path):
    """With wandb's own limits, 90 s and for ever, untouched: the tracker's are enough."""
    key = "secretsecret" * 4
    code, out, told = program("3", WANDB_MODE="online", WANDB_BASE_URL=black_hole, WANDB_API_KEY=key, WANDB_DIR=str(tmp_path))
    assert (code, out[-1]) == (0, "the end"), told
    assert told.count("wandb is switched off, the run goes on without it: no answer within 3 s at on_train_begin") == 1
    assert "secretsecret" not in told


@pytest.mark.slow
def test_the_process_ends_though_wandb_s_service_hangs(tmp_path):
    """wandb's own hook at the process's end waits for its service without a limit."""
    code, out, told = program("60", "suspend", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    assert out[-2].isdigit(), told
    assert (code, out[-1]) == (0, "the end"), told
    assert told.count("wandb is switched off, the run goes on without it: no answer within 3 s at the end of the run") == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_tracker_hears_of_a_checkpoint_when_it_is_committed(late, tmp_path):
    """It may send it along; with saving in the background the event comes first."""

    class Sender(TrainerCallback):
        def __init__(self):
            self.sent = []

        def on_save(self, args, state, control, **kwargs):
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.sent.append((path.name, path.is_dir()))

    stock = Sender()
    tracker = Tracker(stock)
    trackers = Trackers([tracker])
    state = TrainerState(is_world_process_zero=True, global_step=5)

    def commit() -> None:
        (tmp_path / "checkpoint-5").mkdir()
        trackers.committed(tmp_path / "checkpoint-5")

    if not late:
        commit()
    tracker.on_save(Arguments(tmp_path), state, None)
    state.global_step = 6  # training goes on
    if late:
        commit()
    tracker.close()
    assert stock.sent == [("checkpoint-5", True)]
