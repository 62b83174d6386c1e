"""Opens fsspec's file systems as a run wants them: bounded waits, no cached listings, no chatter of their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from llmforge.data.sources.clients import client_options
from llmforge.data.sources.remote import PROTOCOLS
from llmforge.errors import ConfigError


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
    options = {"skip_instance_cache": True, "use_listings_cache": False} | client_options(protocol)
    if protocol in ("file", "local", "memory"):
        options = {"skip_instance_cache": True} | ({"auto_mkdir": True} if protocol != "memory" else {})
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(f"{protocol}:// needs a package that is not installed.", f"Install {error.name or 'it'}.") from None
    return store, path


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
