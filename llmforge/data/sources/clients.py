"""How fsspec's stores are to be opened, for corpora and for runs: bounded waits, and no chatter of their own."""

from __future__ import annotations

import logging
import os
from typing import Any

#: Seconds to a connection, and between two signs of life on one.
_CONNECT, _READ = 10, 30


def client_options(protocol: str) -> dict[str, Any]:
    """What the file system of a store is made with; nothing for what is neither Google's nor S3's.

    Args:
        protocol: ``gs`` or ``s3``, or any other.
    """
    _silence()
    if protocol == "gs":
        return _google()
    if protocol == "s3":
        # Its own attempts are few: whoever waits for it has all the time there is, and says what it waits for.
        return {"config_kwargs": {"connect_timeout": _CONNECT, "read_timeout": _READ, "retries": {"max_attempts": 2}}}
    return {}


def _google() -> dict[str, Any]:
    emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
    if emulated:
        # Before the import: gcsfs would otherwise look for zonal buckets by gRPC, 40 to 80 s each, which no emulator has.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import aiohttp

    options: dict[str, Any] = {"requests_timeout": aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_READ)}
    if emulated and not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        options |= {"token": "anon", "project": "emulated"}
    return options


def _silence() -> None:
    """These log tracebacks, with what was requested, of what is told in one line here."""
    for name in ("gcsfs", "s3fs", "fsspec", "aiobotocore", "botocore", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
