"""Task files: read, found beside a model or beside rows, and the three that need none."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError
from llmforge.tasks.fields import MESSAGES, TaskField, key_of, nearest
from llmforge.tasks.task import SPECIAL, TASK_FILE, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Settings of `GenerationArguments` that a task may give defaults for.
GENERATION = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams")
_KEYS = {
    "fields": ("name", "kind", "fields", "prompt", "completion", "stop", "generation", "truncate"),
    "chat": ("name", "kind", "chat_template", "special", "stop", "generation", "truncate"),
}
_FIELD_KEYS = ("required", "list", "aliases")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Jinja's own words, and what a template finds under these names.
_RESERVED = {
    "loop",
    "range",
    "dict",
    "namespace",
    "cycler",
    "joiner",
    "true",
    "false",
    "none",
    "not",
    "and",
    "or",
    "in",
    "is",
    "if",
}

#: Tasks by name, for rows as others write them too.
BUILT_IN: dict[str, Task] = {
    "completion": Task(
        name="completion",
        fields=(
            TaskField("prompt", required=True, aliases=("input",)),
            TaskField("completion", required=True, aliases=("output",)),
        ),
        prompt="{{ prompt }}",
        completion="{{ completion }}",
    ),
    "qa": Task(
        name="qa",
        fields=(
            TaskField("context"),
            TaskField("question", required=True, aliases=("Q", "instruction")),
            TaskField("answer", required=True, aliases=("A", "response")),
        ),
        prompt="{% if context %}{{ context }}\n\n{% endif %}Question: {{ question }}\nAnswer:",
        completion=" {{ answer }}",
        stop=("\nQuestion:",),
    ),
    "chat": Task(name="chat", kind="chat", stop=("\n\nUser:",)),
}


def find_task(given: str) -> Task:
    """The task that ``--task`` means: a file, a folder that has a ``task.yaml``, or the name of a built-in one.

    Raises:
        ConfigError: There is none, or it cannot be used.
    """
    path = Path(given).expanduser()
    if given in BUILT_IN and not path.exists():
        return BUILT_IN[given]
    if path.is_dir():
        found = load_task(path)
        if found is not None:
            return found
        raise ConfigError(f"--task {given}: there is no {TASK_FILE} in that folder.", "Give a task file.")
    if not path.is_file():
        raise ConfigError(f"--task {given}: no such file.", f"Give a YAML file, or one of {', '.join(BUILT_IN)}.")
    return read_task(path)


def load_task(folder: Path | str) -> Task | None:
    """The task that is saved in `folder`, beside a model or beside rows; None where there is none.

    Raises:
        ConfigError: It cannot be used.
    """
    path = Path(folder).expanduser() / TASK_FILE
    return read_task(path) if path.is_file() else None


def task_for(row: Mapping[str, Any]) -> Task | None:
    """The built-in task that a row's fields are those of; None where they are of none."""
    if any(name in row for name in MESSAGES):
        return BUILT_IN["chat"]
    present = {key_of(str(key)) for key in row}
    for name in ("completion", "qa"):
        task = BUILT_IN[name]
        if all(present & {key_of(word) for word in (item.name, *item.aliases)} for item in task.fields if item.required):
            return task
    return None


def published_template(task: Task | None, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template for other programs: that of a chat's task, with the start of text, or else the tokenizer's own."""
    own = getattr(tokenizer, "chat_template", None)
    if task is None or task.chat_template is None:
        return own if isinstance(own, str) else None
    return task.chat_template if "bos_token" in task.chat_template else "{{ bos_token }}" + task.chat_template


def parse_fields(given: list[str], task: Task) -> dict[str, Any]:
    """The row that ``--field name=value`` describes; a field given several times is a list.

    Raises:
        ConfigError: Not ``name=value``, no field of the task, or given twice where it is no list.
    """
    row: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        field = task.keys.get(key_of(name))
        if not equals or field is None:
            remedy = "Write --field name=value." if not equals else nearest(key_of(name), (each.name for each in task.fields))
            raise ConfigError(
                f"--field {item!r}: {'no value' if not equals else f'the task {task.name} has no such field'}.", remedy
            )
        if field.is_list:
            row.setdefault(field.name, []).extend(part.strip() for part in value.split(",") if part.strip())
        elif field.name in row:
            raise ConfigError(f"--field {field.name} is given twice.", "Give it once.")
        else:
            row[field.name] = value
    return row


def read_task(path: Path) -> Task:
    """The task in a YAML file.

    Raises:
        ConfigError: An unknown key (the nearest known one is named), a template that cannot be, or a wrong value.
    """
    from llmforge.yaml_files import read_yaml  # imports transformers' parser

    values = read_yaml(path)
    kind = values.get("kind", "fields")
    if kind not in _KEYS:
        raise ConfigError(f"{path}: kind {kind!r} is none.", f"Give one of {', '.join(_KEYS)}.")
    for key in values:
        if key not in _KEYS[kind]:
            raise ConfigError(f"{path}: unknown key {key!r}.", nearest(str(key), _KEYS[kind]))
    name = _text(values.get("name", path.parent.name if path.name == TASK_FILE else path.stem), path, "name")
    parts = {
        key: _text(values[key], path, key) for key in ("prompt", "completion", "chat_template") if values.get(key) is not None
    }
    if kind == "fields":
        for key in ("prompt", "completion"):
            if key not in parts:
                raise ConfigError(f"{path}: {key} is missing.", "A task of fields has a prompt and a completion template.")
        if parts["prompt"] and parts["prompt"][-1] in " \t":
            raise ConfigError(
                f"{path}: prompt ends with a space.", "Begin the completion with it: tokens hold the space before a word."
            )
    truncate = values.get("truncate", "left")
    if truncate not in ("left", "right"):
        raise ConfigError(f"{path}: truncate {truncate!r} is no side.", "Give left (the beginning goes) or right.")
    try:
        return Task(
            name=name,
            kind=kind,
            fields=_fields(values.get("fields"), path) if kind == "fields" else (),
            prompt=parts.get("prompt", ""),
            completion=parts.get("completion", ""),
            chat_template=parts.get("chat_template"),
            stop=_stop(values.get("stop"), path),
            generation=_generation(values.get("generation"), path),
            truncate=truncate,
            special=_special(values.get("special"), path),
        )
    except ConfigError as error:
        told = error.problem if error.problem.startswith(str(path)) else f"{path}: {error.problem}"
        raise ConfigError(told, error.remedy) from None


def _text(value: Any, path: Path, key: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{path}: {key} takes a text, got {value!r}.", "Write it in quotes, or as a block after `|-`.")
    return value


def _fields(given: Any, path: Path) -> tuple[TaskField, ...]:
    if isinstance(given, list):
        given = dict.fromkeys(map(str, given))
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{path}: fields lists none.", "Write `fields:` with a name a line.")
    fields = []
    taken: dict[str, str] = {}
    for name, settings in given.items():
        where = f"{path}: field {name!r}"
        if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name) or name in _RESERVED:
            raise ConfigError(f"{where} is no name.", "Use small letters, digits and underscores; other spellings are aliases.")
        settings = {} if settings is None else settings
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{where} takes settings, got {settings!r}.", "Write {required: true, list: true, aliases: [Name]}."
            )
        for key in settings:
            if key not in _FIELD_KEYS:
                raise ConfigError(f"{where}: unknown key {key!r}.", nearest(str(key), _FIELD_KEYS))
        for key in ("required", "list"):
            if not isinstance(settings.get(key, False), bool):
                raise ConfigError(f"{where}: {key} is {settings[key]!r}.", "Give true or false.")
        aliases = settings.get("aliases") or []
        aliases = [aliases] if isinstance(aliases, str) else aliases
        if not isinstance(aliases, list) or not all(isinstance(word, str) and key_of(word) for word in aliases):
            raise ConfigError(f"{where}: aliases is {aliases!r}.", "Give a list of names.")
        for word in dict.fromkeys(map(key_of, (name, *aliases))):
            if taken.setdefault(word, name) != name:
                raise ConfigError(f"{where} and {taken[word]!r} are both called {word!r}.", "Give each its own names.")
        fields.append(TaskField(name, settings.get("required", False), settings.get("list", False), tuple(aliases)))
    return tuple(fields)


def _special(given: Any, path: Path) -> dict[str, str]:
    if given is None:
        return dict(SPECIAL)
    if not isinstance(given, dict) or set(given) != set(SPECIAL) or not all(isinstance(text, str) for text in given.values()):
        raise ConfigError(f"{path}: special is {given!r}.", f"Give the text of {' and '.join(SPECIAL)}, or leave it out.")
    return given


def _stop(given: Any, path: Path) -> tuple[str, ...]:
    stop = [given] if isinstance(given, str) else given or []
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ConfigError(f"{path}: stop is {given!r}.", "Give a list of texts.")
    return tuple(stop)


def _generation(given: Any, path: Path) -> dict[str, Any]:
    values = {} if given is None else given
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: generation takes settings, got {given!r}.", f"Known: {', '.join(GENERATION)}.")
    defaults = {item.name: item.default for item in dataclasses.fields(GenerationArguments)}
    for key, value in values.items():
        if key not in GENERATION:
            raise ConfigError(f"{path}: generation: unknown key {key!r}.", nearest(str(key), GENERATION))
        kind = type(defaults[key])
        if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{path}: generation: {key} is {value!r}, no {kind.__name__}.", "Mend it.")
    GenerationArguments(**values)  # refuses impossible ones
    return values
