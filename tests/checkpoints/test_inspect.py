"""`llmforge checkpoints` on made-up runs: what is shown, refused, found and deleted."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from safetensors.numpy import save_file

from llmforge.checkpoints import inspect, render
from llmforge.checkpoints.compare import config_differences, weight_distances
from llmforge.checkpoints.manifest import MANIFEST, METADATA, write_manifest
from llmforge.checkpoints.summary import STATE, best_step, checkpoint_folders, summarise
from llmforge.errors import CheckpointError, ConfigError
from llmforge.runtime.commands import run_command
from llmforge.runtime.run_folder import timestamp


def write(path: Path, value: object) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def history(step: int) -> list[dict]:
    """A loss that falls by 0.1 a step, evaluated every tenth step, best at step 20."""
    entries: list[dict] = []
    for number in range(1, step + 1):
        entries.append({"step": number, "loss": 6 - number / 10, "learning_rate": 0.01 / number, "epoch": number / 10})
        if number % 10 == 0:
            entries.append({"step": number, "eval_loss": 3 + abs(number - 20) / 10, "eval_accuracy": 0.25})
    return entries


def checkpoint(run: Path, step: int, committed: bool = True, metadata: bool = True, **settings: object) -> Path:
    """A checkpoint of a run evaluated every ten steps; its weights are all equal to its step."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    state = {"global_step": step, "epoch": step / 10, "num_input_tokens_seen": step * 100, "log_history": history(step)}
    write(folder / STATE, state | {"best_global_step": min(step, 20), "best_metric": 3.0})
    weights = np.full((2, 3), float(step), dtype=np.float32)
    save_file({"transformer.wte.weight": weights, "transformer.h.0.mlp.weight": weights * 2}, folder / "model.safetensors")
    if metadata:
        config = {"training": {"learning_rate": 0.01, "seed": 0} | settings, "model": {"preset": "gpt2-10m"}}
        told = {"timestamp": "2026-01-02T03:04:05Z", "files_seen": 7, "mixed_precision": "bf16", "config": config}
        write(folder / METADATA, told | {"trend": "falling", "system": {"python": "3.11"}})
    if committed:
        write_manifest(folder, "abc", step)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three committed checkpoints of a finished run."""
    folder = tmp_path / "runs" / "tiny"
    for step in (10, 20, 100):
        checkpoint(folder, step)
    write(folder / "run.json", {"run_id": "abc"})
    write(folder / "exit.json", {"exit_code": 0, "reason": "finished", "step": 100, "newest_checkpoint": "checkpoint-100"})
    return folder


@pytest.fixture
def told(capsys):
    """Runs the command: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(inspect.main, [str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def as_json(told):
    def call(*arguments: object) -> dict:
        code, out, _ = told(*arguments, "--json")
        assert code == 0
        return json.loads(out)

    return call


# list and view.


def test_list_is_by_step_and_marks_the_best(run, told, as_json):
    code, out, err = told("list", run)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[1][:5] == ["10", "5.0000", "4.0000", "2026-01-02", "03:04:05"]
    assert [row[0] for row in rows[1:]] == ["10", "20", "100"]
    assert [row[3] == "best" for row in rows[1:]] == [False, True, False]
    assert [row[-1] for row in rows[1:]] == ["committed"] * 3
    listed = as_json("list", run)["checkpoints"]
    assert [(item["step"], item["best"], item["state"]) for item in listed] == [
        (10, False, "committed"),
        (20, True, "committed"),
        (100, False, "committed"),
    ]
    assert listed[0]["size"] == sum(path.stat().st_size for path in (run / "checkpoint-10").iterdir())


def test_list_shows_a_validation_loss_where_it_was_measured_and_not_beneath(run, told):
    checkpoint(run, 35)  # as one of a Ctrl-C is, between two evaluations
    rows = {line.split()[0]: line for line in told("list", run)[1].splitlines()[1:]}
    assert "3.0000" in rows["20"]
    assert "4.0000" not in rows["35"]
    assert "2.5000" in rows["35"]


def test_a_folder_or_url_without_a_verb_is_listed(run, capsys):
    inspect.main(["list", str(run)])
    listed = capsys.readouterr().out
    for given in (str(run), f"file://{run}"):
        inspect.main([given])
        assert capsys.readouterr().out == listed
    with pytest.raises(CheckpointError, match="memory://nowhere/run"):
        inspect.main(["memory://nowhere/run"])
    with pytest.raises(ConfigError, match="invalid choice: 'lst'"):
        inspect.main(["lst", str(run)])


def test_list_fits_eighty_columns(run, told):
    assert max(len(line) for line in told("list", run)[1].splitlines()) <= 80
    assert "state" in told("list", run)[1].splitlines()[0]


def test_list_shows_what_is_not_committed_and_what_is_damaged(run, told, as_json):
    (run / "checkpoint-20" / MANIFEST).unlink()
    with open(run / "checkpoint-10" / "model.safetensors", "ab") as file:
        file.write(b"x")
    write(run / "checkpoint-100" / METADATA, "{")
    states = [item["state"] for item in as_json("list", run)["checkpoints"]]
    assert states == ["damaged", "not committed", "damaged"]
    assert "model.safetensors: has" in " ".join(told("list", run)[1].split())


def test_view_tells_everything(run, as_json, told):
    seen = as_json("view", run, 100)
    assert (seen["loss"], seen["best_loss"], seen["best_step"], seen["steps_since_best"]) == (-4.0, 3.0, 20, 80)
    recent = [6 - step / 10 for step in range(61, 101)]
    assert seen["mean_loss"] == pytest.approx(np.mean(recent))
    assert seen["loss_deviation"] == pytest.approx(np.std(recent, ddof=1))
    assert (seen["trend"], seen["tokens_seen"], seen["files_seen"], seen["mixed_precision"]) == ("falling", 10000, 7, "bf16")
    assert seen["learning_rate"] == pytest.approx(0.0001)
    assert (len(seen["loss_history"]), len(seen["learning_rate_history"])) == (100, 100)
    assert seen["validation"] == {"eval_loss": 11.0, "eval_accuracy": 0.25}
    assert seen["config"]["training"]["seed"] == 0
    text = told("view", run, "checkpoint-100")[1]
    for line in ("loss history 100 points", "system python", "validation accuracy", "mean of the last 40"):
        assert line in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "step"), [("newest", 100), ("best", 20), ("20", 20), ("checkpoint-20", 20), ("x/checkpoint-10", 10)]
)
def test_a_checkpoint_has_several_names(run, as_json, name, step):
    assert as_json("view", run, name)["step"] == step


def test_plain_hugging_face_checkpoints_tell_what_they_can(tmp_path, as_json, told):
    run = tmp_path / "output"
    for step in (10, 30):
        folder = checkpoint(run, step, committed=False, metadata=False)
        state = json.loads((folder / STATE).read_text())
        del state["best_global_step"]
        write(folder / STATE, state | {"best_model_checkpoint": "/elsewhere/checkpoint-10"})
    seen = as_json("view", run, "newest")
    assert (seen["state"], seen["loss"], seen["best_loss"], seen["best_step"]) == ("not committed", 3.0, 3.0, 20)
    assert (seen["epoch"], seen["tokens_seen"], seen["trend"]) == (3.0, 3000, "falling")
    assert [item["best"] for item in as_json("list", run)["checkpoints"]] == [True, False]
    assert abs(time.time() - time.mktime(time.strptime(seen["time"][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 3600
    code, _, err = told("verify", run, 10)
    assert code == 7
    assert "never committed" in err


# What is refused.


@pytest.mark.parametrize("verb", ["list", "view", "status", "verify", "plot", "prune", "compare"])
@pytest.mark.parametrize("kind", ["nowhere", "empty", "file", "checkpoint"])
def test_what_is_no_run_is_told_in_one_line(run, told, verb, kind, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    path = run / "checkpoint-10" if kind == "checkpoint" else tmp_path / kind
    more = {"plot": ["--save", "x.png"], "prune": ["--keep", "1"], "compare": ["1", "2"]}.get(verb, [])
    code, out, err = told(verb, path, *more)
    assert (code, out) == (4, "")
    assert err.startswith(f"error: {path}")
    assert err.count("\n") == 1
    assert not Path("x.png").exists()


def test_a_run_without_checkpoints_is_told_but_has_a_status(tmp_path, told, as_json):
    write(tmp_path / "run.json", {"run_id": "abc"})
    code, _, err = told("list", tmp_path)
    assert (code, err) == (4, f"error: {tmp_path} has no checkpoint yet.\n")
    assert as_json("status", tmp_path)["newest_committed"] is None


@pytest.mark.parametrize("name", [STATE, METADATA])
@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000, "\udcff"])
def test_damaged_json_is_told_in_one_line(run, told, name, text):
    (run / "checkpoint-20" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for verb, more in (("view", []), ("plot", ["--save", "x.png"]), ("compare", ["10"])):
        code, out, err = told(verb, run, 20, *more)
        assert (code, out, err.count("\n")) == (4, "", 1)
        assert f"checkpoint-20/{name} is damaged" in err
    assert told("list", run)[0] == 0


@pytest.mark.parametrize("name", ["run.json", "exit.json"])
def test_a_damaged_record_is_told_in_one_line(run, told, name):
    write(run / name, "{")
    code, out, err = told("status", run)
    assert (code, out) == (4, "")
    assert err == f"error: {run / name} is damaged: it is no JSON.\n"


def test_values_of_the_wrong_kind_are_left_out(run, as_json, told):
    folder = run / "checkpoint-20"
    wrong = {"loss": "low", "epoch": [1], "timestamp": 5, "loss_history": [[1, "x"], 7, [True, 1], [3, 2.0]], "trend": {}}
    write(folder / METADATA, wrong | {"validation": 3, "config": [], "system": "old"})
    write(folder / STATE, {"log_history": {"loss": 1}, "best_global_step": "20"})
    seen = as_json("view", run, 20)
    assert (seen["loss"], seen["loss_history"], seen["config"]) == (2.0, [[3, 2.0]], {})
    assert told("view", run, 20)[0] == told("list", run)[0] == told("compare", run, 20, 10)[0] == 0


def test_a_pipe_in_place_of_a_file_does_not_hang(run, told):
    (run / "checkpoint-20" / STATE).unlink()
    os.mkfifo(run / "checkpoint-20" / STATE)
    code, _, err = told("view", run, 20)
    assert (code, "checkpoint-20" in err) == (4, True)


def test_terminal_escapes_and_markup_are_shown_as_text(run, told):
    evil = "\x1b]0;owned\x07\x1b[2J[bold red]x[/bold red]\nnew line"
    folder = run / "checkpoint-20"
    metadata = json.loads((folder / METADATA).read_text())
    metadata["system"] = {evil: evil}
    metadata["trend"] = evil
    metadata["config"]["training"]["output_dir"] = evil
    write(folder / METADATA, metadata)
    write(run / "exit.json", {"exit_code": 1, "reason": evil})
    write(run / "run.json", {"run_id": evil})
    for arguments in (("view", run, 20), ("compare", run, 10, 20), ("status", run), ("verify", run, "newest")):
        code, out, err = told(*arguments)
        assert code == 0
        assert not set(out + err) & {"\x1b", "\x07"}
        assert arguments[0] == "verify" or "[bold red]x[/bold" in out
    code, out, err = told("view", run, evil)
    assert code == 4
    assert "\x1b" not in err


# compare and plot.


def test_compare_shows_settings_losses_and_weights(run, as_json, told, tmp_path):
    checkpoint(run, 30, learning_rate=0.02, seed=0)
    seen = as_json("compare", run, 10, 20, 30)
    assert seen["settings"] == {"training.learning_rate": [0.01, 0.01, 0.02]}
    assert [item["loss"] for item in seen["checkpoints"]] == [5.0, 4.0, 3.0]
    # All weights are the step, so the distance from 10 is 1 for 20 and 2 for 30.
    for name, distance in (("checkpoint-20", 1.0), ("checkpoint-30", 2.0)):
        assert seen["weight_distance"][name] == pytest.approx({"transformer.wte": distance, "transformer.h.0": distance})
    assert as_json("compare", run, 10, 20, "--no_weights")["weight_distance"] == {}
    text = told("compare", run, 10, 30)[1]
    assert "training.learning_rate" in text
    assert "200.00%" in text


def test_compare_reads_shards_and_nothing_but_safetensors(run, tmp_path, told):
    one, two = run / "checkpoint-10", run / "checkpoint-20"
    (two / "model.safetensors").unlink()
    weights = np.full((2, 3), 20.0, dtype=np.float32)
    save_file({"transformer.wte.weight": weights}, two / "model-00001-of-00002.safetensors")
    save_file({"transformer.h.0.mlp.weight": weights * 2}, two / "model-00002-of-00002.safetensors")
    assert weight_distances(one, two) == pytest.approx({"transformer.wte": 1.0, "transformer.h.0": 1.0})
    for path in two.glob("model-*"):
        path.unlink()
    (one / "model.safetensors").rename(one / "adapter_model.safetensors")  # as of a fine-tuning with adapters
    save_file({"transformer.wte.weight": weights, "transformer.h.0.mlp.weight": weights * 2}, two / "adapter_model.safetensors")
    assert weight_distances(one, two) == pytest.approx({"transformer.wte": 1.0, "transformer.h.0": 1.0})
    (one / "adapter_model.safetensors").rename(one / "model.safetensors")
    (two / "adapter_model.safetensors").unlink()
    write(two / "pytorch_model.bin", "cposix\nsystem\n(S'touch owned'\ntR.")
    code, _, err = told("compare", run, 10, 20)
    assert code == 4
    assert "has no safetensors" in err
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"transformer.wte.weight": (2, 3)}, "different models: 1 tensors differ in name"),
        (
            {"transformer.wte.weight": (2, 3), "transformer.h.0.mlp.weight": (3, 2)},
            "transformer.h.0.mlp.weight has another shape",
        ),
    ],
)
def test_compare_refuses_another_model(run, told, tensors, what):
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, run / "checkpoint-20" / "model.safetensors")
    code, _, err = told("compare", run, 10, 20)
    assert code == 4
    assert what in err


def test_compare_of_damaged_weights_is_told_in_one_line(run, told):
    (run / "checkpoint-20" / "model.safetensors").write_bytes(b"\xff" * 100)
    code, _, err = told("compare", run, 10, 20)
    assert (code, err.count("\n")) == (4, 1)
    assert "cannot be read" in err


def test_layers_are_in_order():
    from llmforge.checkpoints.compare import _layer, _order

    names = ["gpt_neox.layers.10.attention.dense.weight", "gpt_neox.layers.9.mlp.bias", "embed_out.weight"]
    assert sorted({_layer(name) for name in names}, key=_order) == ["embed_out", "gpt_neox.layers.9", "gpt_neox.layers.10"]


def test_settings_are_compared_through_all_levels():
    assert config_differences({"a": {"b": {"c": 1}}, "d": [1]}, {"a": {"b": {"c": 2}}, "e": None, "d": [1]}) == {"a.b.c": (1, 2)}


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.PDF", b"%PDF")])
def test_plot_draws(run, told, name, start):
    code, out, _ = told("plot", run, "best", "--save", f"pictures/{name}")
    assert (code, out) == (0, f"Wrote pictures/{name}\n")
    assert Path("pictures", name).read_bytes()[: len(start)] == start


def test_plot_draws_the_history(run, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: seen.append(self))
    render.draw(summarise(run / "checkpoint-100"), Path("a.png"))
    above, below = seen[0].axes
    assert [len(line.get_xdata()) for line in above.lines] == [100, 10]
    assert list(above.lines[0].get_ydata()[:2]) == [5.9, 5.8]
    assert below.lines[0].get_ydata()[1] == 0.005


def test_plot_refuses_what_is_no_picture_and_what_has_no_history(run, told):
    assert told("plot", run, "--save", "a.txt")[0] == 2
    write(run / "checkpoint-20" / STATE, {})
    code, _, err = told("plot", run, 20, "--save", "a.png")
    assert code == 4
    assert "nothing was logged" in err


# verify, status, prune.


def test_verify_finds_one_flipped_bit_and_names_the_file(run, told):
    assert told("verify", run)[:2] == (0, "checkpoint-10: sound\ncheckpoint-20: sound\ncheckpoint-100: sound\n")
    path = run / "checkpoint-20" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, out, err = told("verify", run)
    assert code == 7
    assert out.splitlines()[1] == "checkpoint-20: model.safetensors: has another SHA-256"
    assert err.startswith("error: 1 of 3 checkpoints are not sound: checkpoint-20: model.safetensors: has another SHA-256.")
    assert told("verify", run, 10, 100)[0] == 0
    code, out, err = told("verify", run, 20, "--json")
    assert (code, json.loads(out)["sound"]) == (7, False)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ({"exit_code": 0}, "finished"),
        ({"exit_code": 75}, "interrupted"),
        ({"exit_code": 6}, "failed"),
        (None, "killed"),
    ],
)
def test_status_says_how_it_ended(run, as_json, end, state):
    (run / "exit.json").unlink()
    if end:
        write(run / "exit.json", end)
    seen = as_json("status", run)
    assert seen["state"].startswith(state)
    assert (seen["newest_committed"], seen["best"], seen["checkpoints"]) == ("checkpoint-100", "checkpoint-20", 3)
    assert seen["process"] is None


@pytest.mark.parametrize(("ended", "state"), [(0, "ended: it waits"), (-5, "taken up again")])
def test_status_tells_a_run_that_goes_on_from_one_that_waits_for_its_uploads(run, as_json, ended, state):
    """A run that goes on holds its folder for a while before the record of its last end is gone."""
    write(run / "exit.json", {"exit_code": 75, "time": timestamp(1.7e9 + ended)})
    with open(run / "run.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(run / "run.lock", {"host": "far", "pid": 5, "since": 1.7e9 + 0.25})
        assert as_json("status", run)["state"].startswith(state)


def test_status_says_that_it_runs(run, as_json, told):
    (run / "exit.json").unlink()
    with open(run / "run.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(run / "run.lock", {"host": "far", "pid": 5, "since": 0.0})
        seen = as_json("status", run)
        assert seen["state"] == "running"
        assert seen["process"].startswith("process 5 on far since")
        code, _, err = told("prune", run, "--keep", "1")
        assert code == 2
        assert "is in use by process 5 on far" in err
    assert len(checkpoint_folders(run)) == 3


def test_prune_keeps_the_newest_and_the_best(run, told, as_json):
    for step in (5, 40):
        checkpoint(run, step)
    checkpoint(run, 7, committed=False)
    for name, moment in (("checkpoint-100", 0), ("checkpoint-5", 2e9)):  # the clock says nothing
        os.utime(run / name, (moment, moment))
    before = sorted(path.name for path in run.iterdir())
    assert as_json("prune", run, "--keep", "3", "--dry_run")["deleted"] == ["checkpoint-5", "checkpoint-10"]
    assert sorted(path.name for path in run.iterdir()) == before
    code, out, _ = told("prune", run, "--keep", "1")
    assert (code, out) == (
        0,
        "deleted: checkpoint-5, checkpoint-10, checkpoint-40\nkept: checkpoint-7, checkpoint-20, checkpoint-100\n",
    )
    assert [path.name for path in checkpoint_folders(run)] == ["checkpoint-7", "checkpoint-20", "checkpoint-100"]
    assert told("verify", run, 20, 100)[0] == 0
    assert told("prune", run, "--keep", "0")[0] == 2


def test_best_is_what_the_newest_readable_one_remembers(run):
    folders = checkpoint_folders(run)
    assert best_step(folders) == 20
    write(run / "checkpoint-100" / STATE, "{")
    assert best_step(folders) == 20
    write(run / "checkpoint-100" / STATE, {"best_global_step": 50})
    assert best_step(folders) is None, "it is gone"


def test_what_is_typed_wrong_is_one_line(told):
    for arguments in ((), ("frob",), ("list",), ("prune", "run"), ("list", "run", "--jso"), ("compare", "run")):
        code, out, err = told(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "--help" in err


def test_nothing_heavy_is_imported_and_no_pickle_is_read(run):
    """In a process of its own; weights are compared by the one exception."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        write(run / "checkpoint-20" / name, "cposix\nsystem\n(S'touch owned'\ntR.")
    code = (
        "import sys\n"
        "from llmforge.cli import main\n"
        f"for verb in ('list', 'view', 'status', 'verify'):\n    main(['checkpoints', verb, {str(run)!r}])\n"
        f"main(['checkpoints', 'compare', {str(run)!r}, '10', '20', '--no_weights'])\n"
        f"main(['checkpoints', 'prune', {str(run)!r}, '--keep', '1'])\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'numpy', 'pandas', 'matplotlib', 'datasets'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr
    assert not Path("owned").exists()


def test_a_folder_that_vanishes_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        checkpoint_folders(tmp_path / "gone")
