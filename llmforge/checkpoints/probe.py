"""Finds out at the start whether a store can be used at all, and not hours later with the first checkpoint."""

from __future__ import annotations

import uuid

from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.remote import RemoteFolder


def probe(remote: RemoteFolder) -> None:
    """Write, read back and delete one small object in `remote`.

    Raises:
        RemoteError: Saying which of the three cannot be done, and why.
    """
    name, content = f".probe-{uuid.uuid4().hex[:12]}", uuid.uuid4().bytes
    doing = "written"
    try:
        remote.write(name, content)
        doing = "read back"
        if remote.read(name) != content:
            raise RemoteError("it reads as something else.", "Look at the network, a proxy for one.", "corrupt")
        doing = "deleted"
        remote.delete(name)
    except RemoteError as error:
        why = error.problem.removeprefix(f"{remote.url}/{name}").removeprefix(remote.url).lstrip(": ")
        raise RemoteError(f"--remote {remote.url}: nothing can be {doing} there: {why}", error.remedy, error.kind) from None
