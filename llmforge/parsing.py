"""One way to a configuration: defaults, then YAML, then the command line.

`transformers.HfArgumentParser` turns dataclasses into flags; what is added here is the
YAML layer under the flags and refusals that name the mistake. A YAML value passes
through the very conversion its flag has, so ``2e-4`` is a number in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from transformers import HfArgumentParser

from llmforge.errors import ConfigError
from llmforge.flag_help import FlagHelp
from llmforge.yaml_files import find_config, read_yaml

T = TypeVar("T")


#: Fields that hold a path, or a name where there is no such path.
_PATHS = ("corpus", "dataset_dir", "tokenizer", "test_file")


#: Where the data comes from: a flag for one of them sets aside what the YAML file says of the others.
_ALTERNATIVES = ("corpus", "source", "dataset_dir")


#: Lists whose items are mappings in YAML; as a flag, which may be given again, an item is JSON or ``key=value,…``.
_RECORD_LISTS = ("source",)


#: Lists whose flag may be given again.
_REPEATED = (*_RECORD_LISTS, "field")


#: How like a name must be to be guessed: --dedline is --deadline, which for a verb without one is no --dedup_shingle.
_CLOSE = 0.65


class ForgeParser(HfArgumentParser):
    """A parser over dataclasses that raises `ConfigError` where argparse would print usage and exit.

    Besides a flag a field, in both spellings, it has ``--config``, ``--print_config``
    and ``--debug``; with ``dry_run=True`` also ``--dry_run``.

    Raises:
        TypeError: A field is itself a dataclass; argparse would take it for a string.
    """

    def __init__(self, dataclass_types: Sequence[type], dry_run: bool = False, **kwargs: Any):
        self._nullable: set[str] = set()
        self._mappings: set[str] = set()
        for cls in dataclass_types:
            for name, hint in typing.get_type_hints(cls).items():
                if dataclasses.is_dataclass(hint):
                    raise TypeError(f"{cls.__name__}.{name} is a dataclass: configurations are flat")
                kinds = (hint, *typing.get_args(hint))
                if type(None) in kinds:
                    self._nullable.add(name)
                if any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
                    self._mappings.add(name)
        # argparse's own usage repeats all the flags; a flag is described where it stands.
        kwargs.setdefault("usage", "%(prog)s [--config FILE.yaml] [--FLAG VALUE ...]")
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=FlagHelp, **kwargs)
        self.epilog = "A flag may be written with - for _. What is not given is as the file of --config says, else the default."
        general = self.add_argument_group("configuration")
        general.add_argument("--config", metavar="PATH", help="A YAML file of these flags; flags given beside it win.")
        general.add_argument(
            "--print_config",
            "--print-config",
            action="store_true",
            help="Write the YAML that reproduces this command, and do nothing else.",
        )
        if dry_run:
            general.add_argument(
                "--dry_run", "--dry-run", action="store_true", help="Say what would run and on what, and train nothing."
            )

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
        """As the parent; every boolean also gets ``--no-…``, which the parent gives to some, and a list may be empty."""
        HfArgumentParser._parse_dataclass_field(parser, field)
        for action in parser._actions:
            if action.dest == field.name and action.nargs == "+":
                action.nargs = "*"
        if field.type in (bool, bool | None):
            for action in parser._actions:
                if action.dest == field.name and action.nargs is None:
                    action.nargs, action.const = "?", True
            for action in parser._actions:
                if action.dest == field.name and action.nargs == 0:  # said with the flag itself
                    action.help = argparse.SUPPRESS
            spellings = (f"--no_{field.name}", f"--no-{field.name}", f"--no-{field.name.replace('_', '-')}")
            missing = [option for option in dict.fromkeys(spellings) if option not in parser._option_string_actions]
            if missing:
                parser.add_argument(
                    *missing, action="store_false", dest=field.name, default=argparse.SUPPRESS, help=argparse.SUPPRESS
                )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")

    def field_actions(self) -> dict[str, argparse.Action]:
        """The action behind each dataclass field, by the field's name."""
        names = {item.name for cls in self.dataclass_types for item in dataclasses.fields(cls) if item.init}
        actions: dict[str, argparse.Action] = {}
        for action in self._actions:
            if action.dest in names:
                actions.setdefault(action.dest, action)
        return actions

    def apply_yaml(self, values: dict[str, Any], source: str) -> None:
        """Make `values` the defaults under the flags, converted as the flags are.

        Raises:
            ConfigError: An unknown key (the nearest known one is named) or a value its flag would refuse.
        """
        actions = self.field_actions()
        for key, value in values.items():
            action = actions.get(str(key))
            if action is None:
                raise ConfigError(f"{source}: unknown key {key!r}.", _nearest(str(key), actions))
            action.required = False
            where = f"{source}: {key}"
            if value is None and str(key) not in self._nullable:
                raise ConfigError(f"{where} has no value.", "Give one, or leave the key out.")
            if isinstance(value, dict) and str(key) not in (*self._mappings, *_RECORD_LISTS):
                raise ConfigError(f"{where} takes no mapping, got {value}.", "Give a single value.")
            self.set_defaults(**{action.dest: self._convert(action, value, where)})

    def _without_alternatives(self, values: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
        flags = {item.split("=")[0] for item in argv}
        given = [
            name for name, action in self.field_actions().items() if name in _ALTERNATIVES and flags & {*action.option_strings}
        ]
        return {name: value for name, value in values.items() if not given or name in given or name not in _ALTERNATIVES}

    def _convert(self, action: argparse.Action, value: Any, where: str) -> Any:
        if value is None or (isinstance(value, dict) and action.dest not in _RECORD_LISTS):
            return value
        if action.nargs == "*":
            items = value if isinstance(value, list) else [value]
            if action.dest in _RECORD_LISTS:
                items = [json.dumps(item, ensure_ascii=False) if isinstance(item, dict) else item for item in items]
            return [self._convert_one(action, item, where) for item in items]
        if isinstance(value, list):
            raise ConfigError(f"{where} takes one value, got the list {value}.", "Give a single value.")
        return self._convert_one(action, value, where)

    def _convert_one(self, action: argparse.Action, value: Any, where: str) -> Any:
        if value is True and action.const is not None and not isinstance(action.const, bool):
            return action.const  # `resume: true` is the flag alone
        if isinstance(value, bool) and not isinstance(action.const, bool):
            # YAML 1.1 reads a bare no as false: `eval_strategy: no` means the word.
            value = "yes" if value else "no"
        try:
            converted = self._get_value(action, str(value))
            self._check_value(action, converted)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{where}: {error.message}.", "Mend that line.") from None
        return converted

    def parse(
        self, argv: Sequence[str] | None = None, config_folder: Path | None = None, default_config: str | None = None
    ) -> Parsed:
        """Parse flags over YAML over defaults.

        Args:
            argv: The arguments, by default those of the process.
            config_folder: Where ``--config NAME`` finds ``NAME.yaml``.
            default_config: The name taken when no ``--config`` is given.

        Raises:
            ConfigError: Anything unknown or impossible, in one line.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config", default=default_config)
        try:
            chosen = finder.parse_known_args([item for item in argv if item not in ("-h", "--help")])[0].config
        except argparse.ArgumentError as error:
            raise ConfigError(f"{error}.", "Give --config a path.") from None
        path = find_config(chosen, config_folder) if chosen else None
        defaults = {name: self._default_of(action) for name, action in self.field_actions().items()}
        if path is not None:
            self.apply_yaml(self._without_alternatives(_in_folder(read_yaml(path), path.parent), argv), str(path))
        namespace, unknown = self.parse_known_args(_once(argv))
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [option for option in self._option_string_actions if option.startswith("--")]
            raise ConfigError(f"Unknown argument {flag!r}.", _nearest(flag, known))
        values = vars(namespace)
        built: dict[type, Any] = {}
        for cls in self.dataclass_types:
            inputs = {item.name: values[item.name] for item in dataclasses.fields(cls) if item.init}
            try:
                built[cls] = cls(**inputs)
            except ValueError as error:
                raise ConfigError(f"{str(error).rstrip('. ')}.", f"See `{self.prog} --help`.") from error
        if path is not None:
            self._resolve_paths(built, values, path.parent)
        parsed = Parsed(built, path, bool(values.get("dry_run")), self._changed(values, defaults), self._given(argv, path))
        if values["print_config"]:
            sys.stdout.write(yaml.safe_dump(parsed.changed, sort_keys=False, allow_unicode=True))
            raise SystemExit(0)
        return parsed

    def _resolve_paths(self, built: dict[type, Any], values: dict[str, Any], folder: Path) -> None:
        """A relative path that is not found from here is taken from the YAML file's folder."""
        for cls, instance in built.items():
            for item in dataclasses.fields(cls):
                value = values.get(item.name)
                if item.name in _PATHS and value:
                    found = [_from_folder(one, folder) for one in (value if isinstance(value, list) else [value])]
                    values[item.name] = found if isinstance(value, list) else found[0]
                    setattr(instance, item.name, values[item.name])

    def _default_of(self, action: argparse.Action) -> Any:
        # As argparse itself does: a default that is a string is converted like a given one.
        return self._get_value(action, action.default) if isinstance(action.default, str) else action.default

    def _given(self, argv: Sequence[str], path: Path | None) -> set[str]:
        flags = {item.split("=")[0] for item in argv}
        spelled = {option: action.dest for action in self._actions for option in action.option_strings}
        return {spelled[flag] for flag in flags if flag in spelled} | set(read_yaml(path) if path is not None else ())

    def _changed(self, values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """The fields whose value is not the dataclass's own default, as plain YAML values."""
        names = [item.name for cls in self.dataclass_types for item in dataclasses.fields(cls) if item.init]
        return {name: _plain(values[name]) for name in names if values[name] != defaults[name]}


def _from_folder(path: str, folder: Path) -> str:
    """`path` as it is found from here, where it is found in `folder` only."""
    return os.path.relpath(folder / path) if not Path(path).expanduser().exists() and (folder / path).exists() else path


def _in_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` of a YAML file in `folder`, with the paths in its records as they are found from here."""
    for name in _RECORD_LISTS:
        records = values.get(name)
        for record in records if isinstance(records, list) else [records]:
            if isinstance(record, dict) and isinstance(path := record.get("path"), str) and "://" not in path:
                here = Path(path).expanduser()
                if not here.exists() and (folder / path).exists():
                    record["path"] = os.path.relpath(folder / path)
    return values


def _once(argv: Sequence[str]) -> list[str]:
    """`argv` with the values of a record list that is given several times behind its first flag."""
    spelled = {f"--{name}" for name in _REPEATED}
    kept: list[str] = []
    gathered: dict[str, list[str]] = {}
    current: list[str] | None = None
    for item in argv:
        flag, equals, value = item.partition("=")
        if flag in spelled:
            current = gathered.setdefault(flag, [])
            if equals:
                current.append(value)
        elif item.startswith("--"):
            current = None
            kept.append(item)
        else:
            (kept if current is None else current).append(item)
    return kept + [item for flag, values in gathered.items() for item in (flag, *values)]


def _plain(value: Any) -> Any:
    """`value` as YAML can hold it: enumerations by their value."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


@dataclasses.dataclass
class Parsed:
    """The result of `ForgeParser.parse`.

    Attributes:
        built: One instance for each dataclass.
        config_path: The YAML file that was read, if any.
        dry_run: Whether ``--dry_run`` was given.
        changed: Every field that differs from its default, as YAML would hold it.
        given: Every field that a flag or the YAML file names, its default perhaps.
    """

    built: dict[type, Any]
    config_path: Path | None
    dry_run: bool
    changed: dict[str, Any]
    given: set[str]

    def get(self, cls: type[T]) -> T:
        """The instance of `cls`."""
        return typing.cast(T, self.built[cls])


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), [str(item) for item in known], n=1, cutoff=_CLOSE)
    if not close:
        close = difflib.get_close_matches(name, [str(item) for item in known], n=1, cutoff=_CLOSE)
    return f"Did you mean {close[0]}?" if close else "See --help for the known ones."
