"""What trackers read from the environment."""

from __future__ import annotations

import json
import logging
import os

import pytest
from transformers.integrations import integration_utils

from llmforge.errors import ConfigError
from llmforge.runtime.run_folder import RunFolder
from llmforge.runtime.trackers import check_trackers, tracker_environment

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch, tmp_path):
    """No variable of W&B's, and a home without files."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC", "TENSORBOARD_LOGGING_DIR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "config"))
    (tmp_path / "home" / "config").mkdir(parents=True)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    return RunFolder(tmp_path / "runs" / "a-run")


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.INFO, "llmforge")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmforge"]


def seen(run, *report_to) -> dict[str, str]:
    """The variables of trackers inside."""
    with tracker_environment(report_to, run):
        return {name: value for name, value in os.environ.items() if name.startswith(("WANDB_", "TENSORBOARD_"))}


# --- names ---


@pytest.mark.parametrize("names", [[], ["tensorboard"], ["tensorboard", "wandb"]])
def test_known_trackers_pass(names):
    check_trackers(names)


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="--report_to tensorbord is no tracker") as error:
        check_trackers(["tensorbord"])
    assert "tensorboard" in str(error.value)
    assert "wandb" in str(error.value)


def test_wandb_that_is_not_installed_names_its_remedy(monkeypatch):
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'llmforge\[wandb\]'"):
        check_trackers(["wandb"])


def test_another_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(integration_utils, "is_mlflow_available", lambda: False)
    with pytest.raises(ConfigError, match="--report_to mlflow"):
        check_trackers(["tensorboard", "mlflow"])


# --- the environment of a run ---


def test_tensorboard_writes_into_the_run_s_folder(run):
    assert seen(run, "tensorboard")["TENSORBOARD_LOGGING_DIR"] == str(run.path / "logs")
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_what_was_there_before_is_put_back(run, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    with pytest.raises(ZeroDivisionError), tracker_environment(["wandb"], run):
        raise ZeroDivisionError
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "elsewhere"
    assert [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_CONFIG_DIR"] == []


def test_wandb_writes_into_the_run_s_folder_as_that_run(run):
    values = seen(run, "wandb")
    assert values["WANDB_DIR"] == str(run.path)
    assert (values["WANDB_PROJECT"], values["WANDB_RUN_ID"], values["WANDB_RESUME"]) == ("llmforge", run.run_id, "allow")
    assert float(values["WANDB_INIT_TIMEOUT"]) < 60
    assert 0 < float(values["WANDB_FINISH_TIMEOUT"]) < 30


def test_what_the_user_exported_stays(run, monkeypatch):
    mine = {"WANDB_PROJECT": "mine", "WANDB_RUN_ID": "abc", "WANDB_INIT_TIMEOUT": "300", "WANDB_MODE": "online"}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    assert mine.items() <= seen(run, "wandb").items()
    assert json.loads((run.path / "run.json").read_text())["wandb_run_id"] == "abc"


def test_a_resumed_run_is_the_same_wandb_run(run, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    seen(run, "wandb")
    monkeypatch.delenv("WANDB_RUN_ID")
    again = RunFolder(run.path)
    assert seen(again, "wandb")["WANDB_RUN_ID"] == "abc"


def test_only_the_first_process_looks_for_a_login(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert set(seen(run, "wandb")) == {"TENSORBOARD_LOGGING_DIR", "WANDB_CONFIG_DIR"}


# --- online or not ---


def test_without_a_login_wandb_is_offline_and_says_how_to_sync(run, told):
    assert seen(run, "wandb")["WANDB_MODE"] == "offline"
    assert len(told()) == 1
    assert told()[0].endswith(f"wandb sync {run.path}/wandb/offline-run-*")


def api_key(home, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def identity_token(home, monkeypatch):
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token.jwt")


def netrc_of_wandb(home, monkeypatch):
    (home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (home / ".netrc").chmod(0o600)


def netrc_of_another_server(home, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com:8080")
    monkeypatch.setenv("NETRC", str(home / "mine"))
    (home / "mine").write_text(f"machine wandb.example.com:8080\n  login user\n  password {KEY}\n")


def settings_file(home, monkeypatch):
    (home / "config" / "settings").write_text(f"[default]\napi_key = {KEY}\n")


@pytest.mark.parametrize("login", [api_key, identity_token, netrc_of_wandb, netrc_of_another_server, settings_file])
def test_with_a_login_wandb_is_online(login, run, monkeypatch, tmp_path, told):
    login(tmp_path / "home", monkeypatch)
    assert "WANDB_MODE" not in seen(run, "wandb")
    assert told() == []
    assert KEY not in (run.path / "run.json").read_text()


def test_a_login_for_another_server_is_none(run, monkeypatch, tmp_path):
    netrc_of_wandb(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert seen(run, "wandb")["WANDB_MODE"] == "offline"


@pytest.mark.parametrize("mode", ["online", "disabled", "offline"])
def test_an_exported_mode_is_the_user_s(mode, run, monkeypatch, told):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert seen(run, "wandb")["WANDB_MODE"] == mode
    assert len(told()) == (mode == "offline")


def test_wandb_offline_in_its_settings_is_respected(run, monkeypatch, tmp_path, told):
    """As `wandb offline` writes it."""
    (tmp_path / "home" / "config" / "settings").write_text("[default]\nmode = offline\n")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert seen(run, "wandb")["WANDB_MODE"] == "offline"
    assert "wandb sync" in told()[0]


def test_without_wandb_nothing_of_it_is_set_or_written(run):
    assert set(seen(run, "tensorboard")) == {"TENSORBOARD_LOGGING_DIR", "WANDB_CONFIG_DIR"}
    assert not (run.path / "run.json").exists()
