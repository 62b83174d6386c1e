"""Functions of the user's own, named on the command line as ``module:function``."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmforge.errors import ConfigError


def load_function(spec: str, flag: str) -> Callable[..., Any]:
    """The function that `spec`, ``module:function``, names, from the current folder or from what is installed.

    Args:
        spec: Dotted name of the module, a colon, the function's name; ``Class.method`` is a name too.
        flag: The flag that it was given by, with its dashes, for messages.

    Raises:
        ConfigError: There is no such module or function, the module does not import, or it is no function.
    """
    module_name, colon, name = spec.strip().partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{flag} {spec!r} names no function.", "Write module:function.")
    if module_name.endswith(".py") or not all(part.isidentifier() for part in module_name.split(".")):
        dotted = module_name.removesuffix(".py").replace("/", ".").strip(".")
        raise ConfigError(f"{flag} {spec!r}: {module_name!r} is no module's name.", f"Write {dotted}:{name}.")
    found: Any = _import(module_name, spec, flag)
    for part in name.split("."):
        owner = found
        found = getattr(owner, part, None)
        if found is None:
            close = get_close_matches(part, dir(owner), n=1)
            remedy = f"Did you mean {close[0]}?" if close else "Check the name."
            raise ConfigError(f"{flag} {spec!r}: {_place(owner, module_name)} has no {part!r}.", remedy)
    if not callable(found):
        raise ConfigError(f"{flag} {spec!r} is no function but of type {type(found).__name__}.", "Name a function.")
    return found  # type: ignore[no-any-return]


def where_raised(error: BaseException, function: Callable[..., Any]) -> str:
    """``file:line`` of the user's code that `error` comes from.

    That is the innermost frame in the folder of `function`'s module: an exception from deep inside a library that
    the user's code called is the user's line all the same.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown place"
    try:
        folder = Path(inspect.getfile(inspect.unwrap(function))).resolve().parent
    except TypeError:  # a builtin, or an object that is called
        folder = Path.cwd()
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(folder)]
    frame = (own or frames)[-1]
    return f"{_short(frame.filename)}:{frame.lineno}"


def _import(module_name: str, spec: str, flag: str) -> Any:
    """The module; the current folder comes first for it, and last for whatever it imports later on.

    A file of the user's that is called like an installed module would be found by everybody else if the folder
    stayed in front, or the module known under its name.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        parents = [module_name.rsplit(".", cut)[0] for cut in range(module_name.count(".") + 1)]
        if isinstance(error, ModuleNotFoundError) and error.name in parents:
            problem = f"{flag} {spec!r}: there is no module {error.name!r} in {folder} or installed."
            raise ConfigError(problem, "Start where it lies, or install it.") from error
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{_short(error.filename)}:{error.lineno}"
        else:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
            raised = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)] or frames
            where = f"{_short(raised[-1].filename)}:{raised[-1].lineno}" if raised else module_name
        problem = f"{flag} {spec!r} does not import: {type(error).__name__} at {where}: {error}."
        raise ConfigError(problem, "Mend the module.") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    elsewhere = [path for path in sys.path if path not in ("", folder)]
    if module_name in sys.modules and importlib.machinery.PathFinder.find_spec(module_name, elsewhere) is not None:
        own = getattr(found, "__file__", None)
        if own and Path(own).is_relative_to(folder):
            del sys.modules[module_name]  # the function keeps it; whoever else asks for that name means the library
    return found


def _place(owner: Any, module_name: str) -> str:
    file = getattr(owner, "__file__", None)
    return f"{module_name} ({_short(file)})" if file else str(getattr(owner, "__name__", module_name))


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
