"""What trackers read from the environment: where to write, as which run, and whether to send it anywhere.

The stock callbacks of transformers take all that from environment variables; the variables here
are set for one run and put back after it. Whatever the user has exported stays, but for the place of
TensorBoard's events, which is part of a run's folder.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from llmforge.errors import ConfigError
from llmforge.runtime.launch import rank
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import RUN_RECORD, RunFolder
from llmforge.storage.records import read_json

#: wandb's own limits, in seconds, a little below those of `Tracker`: wandb then says by itself what it
#: waited for. Its defaults are 90 s at the start (and some 10 s more for the login), for ever at the end.
WANDB_LIMITS = {"WANDB_INIT_TIMEOUT": "40", "WANDB_FINISH_TIMEOUT": "20"}
#: In run.json, so that a resumed run goes on in the same W&B run.
WANDB_RUN = "wandb_run_id"


def check_trackers(report_to: Iterable[str]) -> None:
    """Refuse trackers that do not exist or are not installed, before anything expensive starts.

    Raises:
        ConfigError: An unknown name, or a package that is missing.
    """
    names = [name for name in report_to if name != "tensorboard"]  # a dependency of ours, always there
    if not names:
        return
    from transformers.integrations import integration_utils as stock

    for name in names:
        if name not in stock.INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(stock.INTEGRATION_TO_CALLBACK))
            raise ConfigError(f"--report_to {name} is no tracker.", f"Known are {known}; none is none, all is all installed.")
    if "wandb" in names and not stock.is_wandb_available():
        raise ConfigError("--report_to wandb needs wandb, which is not installed.", "Run pip install 'llmforge[wandb]'.")
    # Stock knows of no test for flyte.
    missing = {*names} - {*stock.get_available_reporting_integrations(), "wandb", "flyte"}
    if missing:
        name = min(missing)
        raise ConfigError(
            f"--report_to {name} needs a package that is not installed or not configured.",
            f"Install it (pip install {name.replace('_', '-')}), or leave it out.",
        )


@contextlib.contextmanager
def tracker_environment(report_to: Iterable[str], run: RunFolder) -> Iterator[None]:
    """The variables that trackers read, set for `run` and put back afterwards.

    TensorBoard writes to ``logs/``, W&B to ``wandb/`` in the run's folder. A W&B run is in the project
    ``llmforge`` and keeps its id when resumed. Without a login W&B stays offline, which is said once.

    Raises:
        StorageError: The id cannot be written to ``run.json``.
    """
    values = {"TENSORBOARD_LOGGING_DIR": str(run.path / "logs")}
    if "wandb" in report_to and rank() == 0:
        values |= _wandb(run)
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def stay_offline_without_login(report_to: Iterable[str]) -> None:
    """Keep W&B from asking for a login in a trainer made in Python: outside `tracker_environment` nothing else does.

    Sets ``WANDB_MODE`` for the process, and says so once.
    """
    if "wandb" in report_to and rank() == 0 and not os.environ.get("WANDB_MODE") and wandb_mode(os.environ) == "offline":
        os.environ["WANDB_MODE"] = "offline"
        logger.info("W&B stays offline (`wandb login` changes that); to send the run later: wandb sync wandb/offline-run-*")


def _wandb(run: RunFolder) -> dict[str, str]:
    record = run.path / RUN_RECORD
    saved = read_json(record).get(WANDB_RUN) if record.exists() else None
    wanted = {
        "WANDB_DIR": str(run.path.absolute()),
        "WANDB_PROJECT": "llmforge",
        "WANDB_RUN_ID": saved or run.run_id,
        "WANDB_RESUME": "allow",
        **WANDB_LIMITS,
    }
    values = {name: value for name, value in wanted.items() if not os.environ.get(name)}
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is None:
        wandb.teardown()  # a session begun before, in a notebook say, would ignore the variables
    run.write_record(**{WANDB_RUN: (os.environ | values)["WANDB_RUN_ID"]})
    mode = os.environ.get("WANDB_MODE") or wandb_mode(os.environ | values)
    if mode in ("offline", "dryrun"):
        values["WANDB_MODE"] = "offline"
        folder = Path((os.environ | values)["WANDB_DIR"]) / "wandb"
        logger.info("W&B stays offline (`wandb login` changes that); to send this run later: wandb sync %s/offline-run-*", folder)
    return values


def wandb_mode(environment: Mapping[str, str]) -> str:
    """What wandb would do by its settings files; offline where it would have to ask for a login.

    wandb itself asks on the terminal, or fails where there is none. Nothing here goes over the
    network, unlike `wandb.login`.
    """
    import wandb

    settings = wandb.Settings()
    usual = settings.base_url
    home = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    settings.settings_system = str(Path(home).expanduser() / "settings")
    settings.update_from_system_settings()
    settings.update_from_env_vars(dict(environment))
    if settings.mode not in ("online", "run", "shared"):
        return settings.mode
    hosts = [urlsplit(settings.base_url).netloc]
    if settings.base_url == usual:
        hosts.append("api.wandb.ai")  # where logins were kept before W&B's servers moved; wandb still takes them
    known = settings.api_key or settings.identity_token_file or any(_in_netrc(host) for host in hosts)
    return settings.mode if known else "offline"


def _in_netrc(host: str) -> bool:
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]:
        with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
            if netrc.netrc(path.expanduser()).authenticators(host) is not None:
                return True
    return False
