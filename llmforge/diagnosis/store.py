"""The store that runs would be mirrored to: whether it takes what a run sends, and lets go of it."""

from __future__ import annotations

from collections.abc import Callable

from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.probe import probe
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.configs.remote import shown_url
from llmforge.diagnosis.findings import Finding
from llmforge.errors import LlmforgeError


def look_at_store(url: str, tell: Callable[[str], None]) -> Finding:
    """Write, read back and delete a small object at `url`.

    Args:
        url: As ``--remote`` takes it.
        tell: Is told what comes next.
    """
    tell(f"writing to {shown_url(url)}")
    try:
        probe(RemoteFolder(url))
    except RemoteError as error:
        return Finding("remote", "failure", error.problem, error.remedy, "bucket-access")
    except LlmforgeError as error:  # no such protocol, or a package that is missing
        return Finding("remote", "failure", f"--remote {error.problem}", error.remedy, "bucket-access")
    return Finding("remote", "ok", f"{shown_url(url)}: written, read back and deleted")
