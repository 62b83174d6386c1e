"""The kinds of failure and the exit codes that scripts rely on."""

from __future__ import annotations

import pytest

from llmforge import errors

#: design.md, "Commands".
EXIT_CODES = {
    "LlmforgeError": 1,
    "ConfigError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "StorageError": 5,
    "TrainingDiverged": 6,
    "CheckFailed": 7,
    "Preempted": 75,
}


def kinds() -> list[type[errors.LlmforgeError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LlmforgeError)]


def test_exit_codes_are_those_of_the_table():
    assert {name: getattr(errors, name).exit_code for name in EXIT_CODES} == EXIT_CODES
    assert errors.EXIT_PREEMPTED == 75


def test_every_kind_has_a_code_of_its_own():
    codes = [kind.exit_code for kind in kinds()]
    assert len(codes) >= len(EXIT_CODES)
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", kinds())
def test_message_is_one_line_with_problem_and_remedy(kind: type[errors.LlmforgeError]):
    error = kind("the file\nis gone:\n\tsee", "Put it\r\n  back.")
    assert str(error) == "the file is gone: see Put it back."
    assert (error.problem, error.remedy) == ("the file is gone: see", "Put it back.")


def test_message_without_a_remedy_ends_cleanly():
    assert str(errors.DataError("There is no text.")) == "There is no text."


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_is_caught_as_the_base_and_documented(kind: type[errors.LlmforgeError]):
    with pytest.raises(errors.LlmforgeError):
        raise kind("x")
    assert kind.__doc__
