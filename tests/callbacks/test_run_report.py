"""report.html, written by the run itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from made_runs import made_run

from llmforge.callbacks.run_report import RunReport
from llmforge.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    return made_run(tmp_path / "run")


def test_it_is_written_at_an_evaluation_and_at_the_end(folder, arguments, state, control):
    callback = RunReport(folder)
    for hook in (callback.on_evaluate, callback.on_train_end):
        hook(arguments, state, control)
        assert "llmforge report" in (folder / "report.html").read_text()
        (folder / "report.html").unlink()


def test_one_process_writes_it(folder, arguments, another_process, control):
    RunReport(folder).on_evaluate(arguments, another_process, control)
    RunReport(folder).on_train_end(arguments, another_process, control)
    assert not (folder / "report.html").exists()


def test_what_cannot_be_written_is_warned_of(folder, arguments, state, control, caplog):
    (folder / "report.html").mkdir()
    (folder / "report.html" / "x").touch()
    with caplog.at_level(logging.WARNING, "llmforge"):
        RunReport(folder).on_evaluate(arguments, state, control)
    assert "report.html" in caplog.text


def test_it_needs_forge_trainer(folder, arguments, state, control):
    with pytest.raises(ConfigError, match="RunReport"):
        RunReport(folder).on_train_begin(arguments, state, control)
    callback = RunReport(folder)
    callback.attach(SimpleNamespace())
    callback.on_train_begin(arguments, state, control)
