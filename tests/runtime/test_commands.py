"""The boundary of a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llmforge import errors
from llmforge.runtime.commands import run_command
from llmforge.runtime.signals import stop_signals


def failing(error: BaseException):
    def main(argv):
        raise error

    return main


def test_finished_is_zero_whatever_is_returned(capsys: pytest.CaptureFixture[str]):
    assert run_command(lambda argv: {"a": "result"}, []) == 0
    assert run_command(lambda argv: 5, []) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.LlmforgeError("Bad."), 1),
        (errors.ConfigError("--x 5 is wrong.", "Give 6."), 2),
        (errors.DataError("Bad."), 3),
        (errors.CheckpointError("Bad."), 4),
        (errors.StorageError("Bad."), 5),
        (errors.TrainingDiverged("Bad."), 6),
    ],
)
def test_error_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str], error: errors.LlmforgeError, code: int):
    assert run_command(failing(error), []) == code
    where = f" (docs/troubleshooting.md#{error.see})" if error.see else ""
    assert bool(where) == (code in (5, 6))
    assert capsys.readouterr() == ("", f"error: {error}{where}\n")


def test_interrupted_is_preempted(capsys: pytest.CaptureFixture[str]):
    assert run_command(failing(KeyboardInterrupt()), []) == 75
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug")])
def test_bug_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error), match="a bug"):
        run_command(failing(error), [])


def test_help_exits_as_it_would():
    with pytest.raises(SystemExit) as stop:
        run_command(failing(SystemExit(0)), [])
    assert stop.value.code == 0


@pytest.mark.parametrize("error", [errors.DataError("Bad."), KeyboardInterrupt()])
def test_debug_shows_the_traceback(error: BaseException):
    with pytest.raises(type(error)):
        run_command(failing(error), ["--debug"])


@pytest.mark.parametrize(
    ("argv", "seen", "debug"),
    [
        (["--debug"], [], True),
        (["a", "--debug", "--seed", "1"], ["a", "--seed", "1"], True),
        (["--seed", "1", "--debug"], ["--seed", "1"], True),
        (["--debug", "underflow_overflow"], ["--debug", "underflow_overflow"], False),
        (["--debug=underflow_overflow", "--debug"], ["--debug=underflow_overflow"], True),
        (["--debug", "underflow_overflow", "--debug"], ["--debug", "underflow_overflow"], True),
        (["--debug", "-h"], ["-h"], True),
        ([], [], False),
    ],
)
def test_bare_debug_is_ours_and_one_with_a_value_is_trainers(argv: list[str], seen: list[str], debug: bool):
    received = []

    def main(given):
        received.append(list(given))
        raise errors.DataError("Bad.")

    if debug:
        with pytest.raises(errors.DataError):
            run_command(main, argv)
    else:
        assert run_command(main, argv) == 3
    assert received == [seen]


def test_underflow_overflow_reaches_the_training_arguments():
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.parsing import ForgeParser

    made = []
    main = lambda argv: made.append(ForgeParser([ForgeTrainingArguments]).parse(argv).get(ForgeTrainingArguments))  # noqa: E731
    assert run_command(main, ["--debug", "underflow_overflow"]) == 0
    assert [option.value for option in made[0].debug] == ["underflow_overflow"]


def test_arguments_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["x", "--seed", "1", "--debug"])
    received = []
    assert run_command(received.append) == 0
    assert received == [["--seed", "1"]]


def test_another_process_says_which_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RANK", "3")
    assert run_command(failing(errors.DataError("Bad.")), []) == 3
    assert capsys.readouterr().err == "error (process 3): Bad.\n"


def test_error_that_the_first_process_has_told_is_not_told_again(capsys: pytest.CaptureFixture[str]):
    error = errors.DataError("Bad.")
    error.relayed = True
    assert run_command(failing(error), []) == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [errors.Preempted("Stopped by Ctrl-C."), KeyboardInterrupt("Ctrl-C")])
def test_after_a_second_ctrl_c_the_process_ends_there(error: BaseException, tmp_path: Path):
    """Taking the libraries down takes seconds, many where others use the machine."""

    def main(argv: object) -> None:
        stop_signals.insisted = True
        raise error

    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run_command(main, [])
            (tmp_path / "returned").touch()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errors.EXIT_PREEMPTED
    assert not (tmp_path / "returned").exists()
