"""`llmforge pretrain --report_to tensorboard wandb`: both hold the same, a resume goes on in both, neither can hold the run."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import tensorboard_scalars, wandb_history, wandb_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from llmforge import pretrain
from llmforge.runtime.commands import run_command

FLAGS = """--preset gpt2-10m --n_layer 2 --n_embd 32 --n_head 2 --vocab_size 400 --block_size 32 --eval_steps 2 --save_steps 2
    --logging_steps 1 --per_device_train_batch_size 4 --disable_tqdm --output_dir run --max_eval_samples 8""".split()
BOTH = ["--report_to", "tensorboard", "wandb"]
#: Stock puts these into W&B's summary of a run, and into TensorBoard as scalars.
SUMMARY = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}


def command(corpus: Path, *arguments: str) -> int:
    return run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), *arguments])


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def finish_writing() -> None:
    import wandb

    wandb.teardown()  # as at the end of the process


def test_both_hold_the_same_and_a_resume_goes_on_in_both(corpus, capsys):
    extras = ["--prompts", "func", "--max_new_tokens", "4", "--histogram_steps", "2"]
    assert command(corpus, *BOTH, *extras, "--max_steps", "3") == 0
    finish_writing()
    assert capsys.readouterr().err.count("wandb sync") == 1
    scalars, everything = tensorboard_scalars(Path("run/logs")), wandb_history(Path("run"))
    shown = {name.rsplit("/", 1)[0] for name in everything if name.startswith(("samples/", "plots/", "histograms/"))}
    events = EventAccumulator("run/logs", size_guidance={"tensors": 0}).Reload().Tags()
    own = {name for name in events["tensors"] if not name.endswith("/text_summary")}  # stock's, of arguments and config
    assert shown == own | set(events["images"]) | set(events["histograms"])
    assert {"samples/greedy", "plots/loss", "histograms/gradients/transformer.wte.weight"} <= shown
    history = {name: points for name, points in everything.items() if name.rsplit("/", 1)[0] not in shown}
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "eval/loss", "eval/perplexity", "test/loss"} <= set(history)
    assert set(scalars) - {f"train/{name}" for name in SUMMARY} == set(history)
    for name, points in history.items():
        assert [step for step, _ in points] == [step for step, _ in scalars[name]], name
        for (_, one), (_, other) in zip(points, scalars[name], strict=True):
            assert math.isclose(one, other, rel_tol=1e-6), name  # TensorBoard keeps 32 bits

    records = wandb_records(Path("run"))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    saved = json.loads(Path("run/run.json").read_text())
    assert (run.run_id, run.project, run.display_name) == (saved["wandb_run_id"], "llmforge", "run")

    # As if killed after its third step, the last checkpoint being that of step 2.
    first = next(Path("run/wandb").glob("offline-run-*"))
    first.rename("first-part")
    loss = scalars["train/loss"]
    assert command(corpus, *BOTH, "--max_steps", "4", "--resume", "checkpoint-2") == 0
    finish_writing()
    again = tensorboard_scalars(Path("run/logs"))["train/loss"]
    assert [step for step, _ in again] == [1, 2, 3, 4]
    assert again[:2] == loss[:2]
    (run,) = [record.run for record in wandb_records(Path("run")) if record.WhichOneof("record_type") == "run"]
    assert run.run_id == saved["wandb_run_id"]
    assert [step for step, _ in wandb_history(Path("run"))["train/loss"]] == [3, 4]


def test_a_failed_run_is_a_failed_one_in_wandb(corpus, monkeypatch):
    from llmforge.callbacks.run_log import RunLog

    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "on_log", interrupt)
    assert command(corpus, *BOTH, "--max_steps", "3") == 75
    finish_writing()
    assert [record.exit.exit_code for record in wandb_records(Path("run")) if record.WhichOneof("record_type") == "exit"] == [75]


def broken(*arguments, **settings):
    raise OSError("no space on the tracker's device")


@pytest.mark.parametrize("hook", ["on_train_begin", "on_log", "on_train_end"])
@pytest.mark.parametrize("stock", [TensorBoardCallback, WandbCallback])
def test_mode_24_a_broken_tracker_does_not_stop_the_run(stock, hook, corpus, monkeypatch, capsys):
    monkeypatch.setattr(stock, hook, broken)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert command(corpus, *BOTH, "--max_steps", "2") == 0
    told = capsys.readouterr().err
    assert told.count("is switched off, the run goes on without it") == 1
    assert "no space on the tracker's device" in told
    assert "no space on the tracker's device" in Path("run/run.log").read_text()
    assert json.loads(Path("run/exit.json").read_text())["exit_code"] == 0


def test_mode_24_a_hanging_tracker_does_not_hold_the_run(corpus, monkeypatch, capsys):
    end = threading.Event()
    monkeypatch.setattr(TensorBoardCallback, "on_log", lambda *arguments, **settings: end.wait())
    monkeypatch.setattr("llmforge.callbacks.tracker.Tracker.__init__.__defaults__", (1.0, 1.0, 1000))
    assert command(corpus, "--report_to", "tensorboard", "--max_steps", "2") == 0
    end.set()
    assert capsys.readouterr().err.count("tensorboard is switched off, the run goes on without it: no answer within 1 s") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--report_to", "tensorbord"], "--report_to tensorbord is no tracker. Known are"),
        (["--report_to", "tensorboard", "wandb"], "pip install 'llmforge[wandb]'"),
    ],
)
def test_trackers_that_cannot_be_had_are_refused_before_anything_starts(arguments, told, corpus, monkeypatch, capsys):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    assert command(corpus, *arguments) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("run").exists()


@pytest.mark.slow
def test_mode_24_a_server_that_never_answers_does_not_hold_the_process(corpus, tmp_path):
    """W&B online, with wandb's own time to wait made short; the exit code is the run's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)  # the kernel takes the connections; nobody reads from them
        environment = os.environ | {
            "WANDB_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "WANDB_API_KEY": "secretsecret" * 4,
            "WANDB_INIT_TIMEOUT": "3",
            "WANDB_FINISH_TIMEOUT": "3",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "llmforge", "pretrain", *FLAGS, "--corpus", str(corpus), *BOTH, "--max_steps", "2"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("wandb is switched off, the run goes on without it") == 1
    assert [step for step, _ in tensorboard_scalars(Path("run/logs"))["train/loss"]] == [1, 2]
    written = ended.stdout + ended.stderr + "".join(path.read_text() for path in Path("run").glob("*.*") if path.is_file())
    assert "secretsecret" not in written
