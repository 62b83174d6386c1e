"""TensorBoard and W&B: what they would do, without the network."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from llmforge.diagnosis import tracking
from llmforge.diagnosis.tracking import look_at_trackers


def told(what: str) -> None:
    assert what


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user without settings or a login."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_an_event_is_written_and_wandb_is_offline_without_a_login():
    [found] = look_at_trackers(told)
    assert (found.level, found.text) == ("ok", "TensorBoard writes events; W&B is offline (wandb login changes that)")


def test_a_login_is_seen(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    [found] = look_at_trackers(told)
    assert found.text.endswith("W&B is logged in and online")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    [found] = look_at_trackers(told)
    assert found.text.endswith("W&B is disabled by WANDB_MODE")


def test_wandb_need_not_be_there(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    [found] = look_at_trackers(told)
    assert found.text.endswith("W&B is not installed")


def test_a_wandb_that_is_half_installed_is_a_note(monkeypatch):
    def broken(environment):
        raise ImportError("wandb_core is missing")

    monkeypatch.setattr(tracking, "wandb_mode", broken)
    note, found = look_at_trackers(told)
    assert (note.level, "wandb_core is missing" in note.text) == ("note", True)
    assert (found.level, found.text) == ("ok", "TensorBoard writes events")


def test_a_tensorboard_that_does_not_work_is_a_failure(monkeypatch):
    """It is the default: a training would stop there."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    [found] = look_at_trackers(told)
    assert (found.level, found.see) == ("failure", "broken-installation")
    assert "--report_to none" in found.remedy
