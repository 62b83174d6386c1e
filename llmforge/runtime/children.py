"""Processes that help this one."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_script() -> Iterator[None]:
    """Processes that are spawned in the block do not run the user's script again.

    `multiprocessing` has each of them import the main module first, to find functions in it. Ours are
    all in the library, and a notebook's export or a short script has seldom the guard
    ``if __name__ == "__main__":`` without which it would do all its work over again.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
