"""Where a run is mirrored to, and what that may cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from llmforge.configs.source import without_secrets
from llmforge.errors import ConfigError


def shown_url(url: str) -> str:
    """A store's URL as it may be shown: without user, password and query."""
    return without_secrets(url).partition("?")[0].rstrip("/")


def run_url(remote: str, folder: Path | str) -> str:
    """A run's place in a store: ``<--remote>/<last component of --output_dir>``."""
    return f"{remote.rstrip('/')}/{Path(folder).resolve().name}"


def refuse_secrets(url: str, flag: str) -> None:
    """Refuse a URL whose password or query would stand in the run's records.

    Raises:
        ConfigError: It has one.
    """
    if "@" in url.partition("://")[2].partition("/")[0] or "?" in url:
        raise ConfigError(
            f"{flag} {shown_url(url)} was given with a password or a query, which records would show.",
            "Give credentials by the environment or by the store's own files.",
        )


@dataclass
class RemoteArguments:
    """Settings of the mirror of a run in a store.

    Raises:
        ConfigError: A URL that is none, or holds a password; a number that cannot be.
    """

    _argument_group_name = "remote"

    remote: str | None = field(
        default=None,
        metadata={"help": "Mirror the run below this URL while it trains: gs://bucket/prefix, s3://…, file:///… ."},
    )
    background_upload: bool = field(
        default=True,
        metadata={"help": "Upload while training goes on; without it each checkpoint is uploaded before the next step."},
    )
    remote_total_limit: int | None = field(
        default=3, metadata={"help": "Checkpoints kept in the store, the best one and the newest always; 0 keeps all."}
    )
    release_local: bool = field(
        default=False,
        metadata={"help": "Delete a checkpoint here once it is uploaded, unless it is the newest or the best."},
    )
    # Two: one that is on its way and one that waits. A third would be older than the newest by two saves.
    upload_queue: int = field(
        default=2,
        metadata={"help": "Checkpoints that may wait for their upload, on the disk here; beyond, the oldest is left out."},
    )
    drain_seconds: float = field(
        default=120.0,
        metadata={"help": "How many seconds the end of a run waits for uploads; when it was asked to stop, at most 20."},
    )

    def __post_init__(self) -> None:
        if self.remote is not None:
            self.remote = self.remote.rstrip("/")
            shown = shown_url(self.remote)
            if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]|file:///.", self.remote):
                raise ConfigError(
                    f"--remote {shown} is no URL.", "Give one as gs://bucket/prefix, s3://bucket/prefix or file:///path."
                )
            if re.match(r"https?://", self.remote, re.IGNORECASE):
                raise ConfigError(f"--remote {shown} cannot be written to.", "Give gs://, s3:// or file://.")
            refuse_secrets(self.remote, "--remote")
        if self.upload_queue < 1:
            raise ConfigError(f"--upload_queue {self.upload_queue} would upload none.", "Give at least 1.")
        if self.remote_total_limit is not None and self.remote_total_limit < 0:
            raise ConfigError(f"--remote_total_limit {self.remote_total_limit} cannot be.", "Give 0 or more.")
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise ConfigError(f"--drain_seconds {self.drain_seconds} cannot be.", "Give 0 or more.")
