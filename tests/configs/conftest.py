"""What the tests of the configuration share."""

from __future__ import annotations

import pytest

from llmforge.errors import ConfigError


@pytest.fixture
def refused():
    """Calls a constructor and sees it refuse: the message has the flag, the value and a remedy, in one line."""

    def check(construct, flag: str, value: object, **fields):
        with pytest.raises(ConfigError) as caught:
            construct(**fields)
        error = caught.value
        assert f"--{flag}" in error.problem
        assert str(value) in error.problem
        assert error.remedy.endswith(".")
        assert "\n" not in str(error)
        return error

    return check
