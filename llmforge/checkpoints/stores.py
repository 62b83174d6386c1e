"""Opens fsspec's file systems as a run wants them: bounded waits, no cached listings, no chatter of their own."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any

from llmforge.data.sources.remote import PROTOCOLS
from llmforge.errors import ConfigError

_ALIASES = {"gcs": "gs", "s3a": "s3"}
#: Seconds to a connection, and between two signs of life on one.
_CONNECT, _READ = 10, 30


def canonical(protocol: str) -> str:
    """One name for each protocol: ``gs`` for ``gcs``, ``s3`` for ``s3a``."""
    return _ALIASES.get(protocol.lower(), protocol.lower())


def require_protocol(protocol: str, shown: str) -> None:
    """See that a protocol can be spoken, and written, without importing its package.

    Raises:
        ConfigError: It is unknown, or its package is not installed.
    """
    from fsspec.registry import known_implementations

    if protocol not in known_implementations or protocol in ("http", "https"):
        raise ConfigError(f"{shown}: {protocol}:// is no store that can be written to.", "Use gs://, s3:// or file://.")
    package, install = PROTOCOLS.get(protocol, ("fsspec", ""))
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{shown} needs the package {package}, which is not installed.", f"Run pip install '{install}'.")


def open_store(protocol: str, url: str) -> tuple[Any, str]:
    """An fsspec file system of its own, and the path in it that `url` means.

    Raises:
        ConfigError: The package of a protocol that is rarely used is missing.
    """
    _silence()
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol == "gs":
        options |= _google()
    elif protocol == "s3":
        # Its own attempts are few: whoever uploads has all the time there is, and says what it waits for.
        options["config_kwargs"] = {"connect_timeout": _CONNECT, "read_timeout": _READ, "retries": {"max_attempts": 2}}
    elif protocol in ("file", "local", "memory"):
        options = {"skip_instance_cache": True} | ({"auto_mkdir": True} if protocol != "memory" else {})
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"{protocol}:// needs a package that is not installed.", f"Install {error.name or 'it'}.") from None
    return store, path


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


def progress(count: Callable[[int], None]) -> Any:
    """An fsspec callback that tells `count` of the bytes that moved."""
    import fsspec

    class Progress(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            count(inc)
            super().relative_update(inc)

        def absolute_update(self, value: int) -> None:
            count(max(value - self.value, 0))
            super().absolute_update(value)

    return Progress()
