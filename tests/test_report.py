"""`llmforge report` as a user meets it, and what a run writes by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import made_run, train_line

import llmforge
from llmforge import report
from llmforge.errors import ConfigError
from llmforge.runtime.commands import run_command

#: A training of a second.
FLAGS = ["--preset", "gpt2-10m", "--n_layer", "2", "--n_embd", "32", "--n_head", "2", "--vocab_size", "400", "--block_size", "32"]
FLAGS += ["--max_steps", "4", "--eval_steps", "2", "--logging_steps", "1", "--report_to", "none", "--disable_tqdm"]


def run(*argv: object) -> int:
    return run_command(report.main, [str(item) for item in argv])


def test_the_page_of_a_run_lies_in_its_folder(tmp_path, capsys):
    folder = made_run(tmp_path / "made")
    assert run(folder) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert "<title>made – llmforge report</title>" in text
    told = capsys.readouterr().out
    assert "report.html" in told
    assert "kB" in told
    assert [item.name for item in folder.iterdir() if item.name.startswith((".", "report"))] == ["report.html"]


def test_several_runs_are_compared_where_it_is_said(tmp_path, capsys):
    folders = [made_run(tmp_path / name) for name in ("a", "b")]
    assert run(*folders, "--json") == 0
    assert json.loads(capsys.readouterr().out)["report"] == "comparison.html"
    assert "2 runs compared" in Path("comparison.html").read_text()
    assert run(*folders, "--output", tmp_path / "x" / "both.html") == 0
    assert (tmp_path / "x" / "both.html").exists()
    assert not any((folder / "report.html").exists() for folder in folders)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda room: ["nowhere"], 2, "There is no run folder nowhere"),
        (lambda room: [room], 2, "is no run"),
        (lambda room: [], 2, "llmforge report --help"),
        (lambda room: [made_run(room / "a"), room / "b" / ".." / "a"], 2, "given twice"),
        (lambda room: [made_run(room / "a"), "--output", room], 2, "is a folder"),
        (lambda room: [made_run(room / f"r{number}") for number in range(13)], 2, "13 runs cannot be told apart"),
        (lambda room: [made_run(room / "a"), "--outptu", "x"], 2, "--outptu"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, make, code, words):
    (tmp_path / "b").mkdir()
    assert run(*make(tmp_path)) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, capsys):
    folder = made_run(tmp_path / "made")
    assert run(folder) == 0
    before = (folder / "report.html").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    assert run(folder) == 5
    assert (folder / "report.html").read_bytes() == before
    assert "report.html" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_pandas(tmp_path):
    folder = made_run(tmp_path / "made")
    code = "import sys; from llmforge.cli import main; assert main(sys.argv[1:]) == 0;"
    code += "print({'torch', 'transformers', 'pandas', 'matplotlib', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "report", folder], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"


def test_from_python(tmp_path):
    folder = made_run(tmp_path / "made")
    assert llmforge.write_report([folder]) == folder / "report.html"
    with pytest.raises(ConfigError):
        llmforge.write_report([tmp_path / "nowhere"])


def test_a_page_that_is_written_again_reads_only_what_is_new(tmp_path):
    folder = made_run(tmp_path / "made", end=None)
    assert report.refresh_report(folder) == folder / "report.html"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(train_line(205, 1.234)) + "\n")
    report.refresh_report(folder)
    assert "1.234" in (folder / "report.html").read_text()


def test_a_training_writes_its_page_at_each_evaluation_and_at_its_end(corpus, monkeypatch):
    from llmforge import pretrain
    from llmforge.callbacks import run_report
    from llmforge.configs.defaults import defaults_of_changed
    from llmforge.reporting.page import config_yaml
    from llmforge.viewing.run import view_run

    seen = []

    def watched(folder: Path) -> Path | None:
        path = report.refresh_report(folder)
        seen.append(path.read_text())
        return path

    monkeypatch.setattr(run_report, "refresh_report", watched)
    assert run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--output_dir", "run"]) == 0
    assert len(seen) == 4  # before the first step, after two, after four, and when the training ended
    assert all("running" in text for text in seen)
    text = Path("run/report.html").read_text()
    assert "finished" in text
    assert "Finished at step 4 of 4" in text
    assert "gpt2-124m" in text  # a default, recorded by the run
    record = json.loads(Path("run/run.json").read_text())
    assert record["steps"] == 4
    assert record["defaults"]["model"] == {"preset": "gpt2-124m", "n_layer": None, "n_embd": None, "n_head": None}
    assert record["defaults"]["training"]["max_steps"] == -1
    assert "learning_rate" not in record["defaults"]["training"]  # it follows from the width
    # The settings that the page gives as YAML make the same run again.
    Path("again.yaml").write_text(config_yaml(view_run("run")))
    again = defaults_of_changed(pretrain.parse_pretrain(["--config", "again.yaml", "--output_dir", "again"]))
    assert {part: names.keys() - {"run_name"} for part, names in again.items()} == {
        part: names.keys() - {"run_name"} for part, names in record["defaults"].items()
    }


def test_a_page_that_fails_stops_no_training(corpus, monkeypatch, capsys):
    from llmforge import pretrain
    from llmforge.reporting import page

    monkeypatch.setattr(page, "render", lambda views: 1 / 0)
    assert run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--output_dir", "run"]) == 0
    assert "report.html could not be written: ZeroDivisionError" in capsys.readouterr().err
    assert not Path("run/report.html").exists()


def test_no_page_where_none_is_wanted(corpus):
    from llmforge import pretrain

    assert run_command(pretrain.main, [*FLAGS, "--no-html_report", "--corpus", str(corpus), "--output_dir", "run"]) == 0
    assert not Path("run/report.html").exists()


@pytest.mark.slow
def test_a_run_killed_by_9_has_a_complete_page(corpus, tmp_path):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--max_steps", "100000", "--corpus", str(corpus), "--output_dir", str(folder)]
    training = subprocess.Popen([sys.executable, "-m", "llmforge", "pretrain", *flags], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while len(list(folder.glob("checkpoint-*/manifest.json"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        training.send_signal(signal.SIGKILL)
        training.wait()
    assert "running" in (folder / "report.html").read_text()  # the last one it wrote
    assert run(folder) == 0
    text = (folder / "report.html").read_text()
    assert "killed" in text
    assert "Not finished" in text
    assert "checkpoint-" in text
    assert '"title":"Loss"' in text
