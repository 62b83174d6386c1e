"""Where text comes from and how it is read: a corpus is a list of sources.

Every setting of a source is a flag as well (`DataArguments` inherits them): the flag holds for
all sources, and ``--source format=text,path=DIR,segment=paragraph`` for one. Only what concerns
reading and cleaning belongs here; what is done with the corpus as a whole is in `configs.data`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llmforge.errors import ConfigError

Format = Literal["auto", "text", "code", "markdown", "json", "jsonl", "csv", "parquet", "gutenberg", "npz", "hf", "python"]
#: Formats whose entries are records with fields.
RECORDS = ("json", "jsonl", "csv", "parquet", "hf")


@dataclass
class SourceSettings:
    """How a source is read and cleaned.

    Raises:
        ConfigError: Settings that do not fit one another.
    """

    format: Format = field(
        default="auto",
        metadata={
            "help": "What the files are: auto goes by suffix; code is every known source suffix; text is .txt; markdown, json, "
            "jsonl, csv and parquet are what they say; gutenberg strips Project Gutenberg's header and licence; npz holds "
            "token ids; hf is a dataset on disk or a hub id; python is module:function, which yields documents."
        },
    )
    suffixes: list[str] = field(
        default_factory=list, metadata={"help": "Take only files that end so, e.g. .go .mod, whatever the format's own are."}
    )
    segment: Literal["file", "paragraph"] = field(
        default="file",
        metadata={"help": "What one document of a text file is: the file, or each block between blank lines."},
    )
    content: Literal["text", "qa", "chat"] = field(
        default="text",
        metadata={"help": "What a record holds: a text, a question with its answer, or a list of messages with roles."},
    )
    text_field: str = field(default="text", metadata={"help": "The field of a record that holds the text; a.b goes inside."})
    question_field: str = field(default="question", metadata={"help": "The field of a qa record that holds the question."})
    answer_field: str = field(default="answer", metadata={"help": "The field of a qa record that holds the answer."})
    context_field: str = field(default="context", metadata={"help": "The field of a qa record that may hold the context."})
    messages_field: str = field(default="messages", metadata={"help": "The field of a chat record that holds the messages."})
    template: str | None = field(
        default=None,
        metadata={"help": "Jinja template, or its file, that renders a qa or chat record; else a plain one."},
    )
    group_by: str = field(
        default="document",
        metadata={"help": "What a split never parts: document, file, folder, or field.NAME of a record (a repository)."},
    )
    clean: bool = field(
        default=True, metadata={"help": "Mend encodings, control characters and line ends, and filter documents."}
    )
    cleaner: str | None = field(
        default=None, metadata={"help": "module:function of your own: takes a text, returns it cleaned, or None to drop it."}
    )
    front_matter: Literal["drop", "keep"] = field(default="drop", metadata={"help": "What is done with Markdown's front matter."})
    path_header: bool = field(default=False, metadata={"help": "Begin each code document with a comment that holds its path."})
    keep_generated: bool = field(default=False, metadata={"help": "Keep generated, vendored and minified code."})
    gitignore: bool = field(default=True, metadata={"help": "Leave out what .gitignore files name."})
    min_characters: int = field(default=1, metadata={"help": "Drop documents shorter than this."})
    max_characters: int | None = field(default=None, metadata={"help": "Drop documents longer than this."})
    max_line_characters: int = field(default=100_000, metadata={"help": "Drop documents with a line longer than this."})
    max_symbol_ratio: float | None = field(
        default=None, metadata={"help": "Drop documents with a larger share of characters that are no letter, digit or space."}
    )
    trim_boilerplate: bool = field(
        default=False, metadata={"help": "Take away blocks that many documents share, such as licence headers."}
    )
    max_files: int | None = field(default=None, metadata={"help": "Read so many files at most, the first by name."})
    max_documents: int | None = field(
        default=None, metadata={"help": "Read so many records of an hf dataset, the first, at most."}
    )
    strict: bool = field(default=False, metadata={"help": "Stop at the first broken file, line or record, not count it."})
    array: str | None = field(default=None, metadata={"help": "Array of an .npz file; input_ids or the only one if not given."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset."})
    subset_split: str = field(default="train", metadata={"help": "Split of an hf dataset to read."})
    gutenberg_url: str = field(
        default="https://www.gutenberg.org/cache/epub/{id}/pg{id}.txt",
        metadata={"help": "Where book ids of a gutenberg source are fetched from; {id} is the id."},
    )

    def __post_init__(self) -> None:
        words = [word.strip() for item in self.suffixes for word in item.split(",")]
        self.suffixes = [word if word.startswith(".") else f".{word}" for word in words if word]
        if self.segment == "paragraph" and self.format not in ("auto", "text", "gutenberg"):
            raise ConfigError(
                f"--segment paragraph does not go with --format {self.format}.", "It cuts text files: use --format text."
            )
        if self.content != "text" and self.format not in ("auto", *RECORDS):
            raise ConfigError(
                f"--content {self.content} does not go with --format {self.format}.", "It is for records: use jsonl."
            )
        if self.group_by not in ("document", "file", "folder") and not self.group_by.startswith("field."):
            raise ConfigError(f"--group_by {self.group_by!r} is unknown.", "Give document, file, folder or field.NAME.")
        for name in ("min_characters", "max_characters", "max_line_characters", "max_files", "max_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} is too small.", "Give at least 1.")
        if self.max_symbol_ratio is not None and not 0 < self.max_symbol_ratio <= 1:
            raise ConfigError(f"--max_symbol_ratio {self.max_symbol_ratio} is no share.", "Give a number above 0, up to 1.")
        for name in ("cleaner", "path") if self.format == "python" else ("cleaner",):
            value = getattr(self, name, None)
            if value is not None and not all(part.strip() for part in value.partition(":")[::2]):
                raise ConfigError(f"--{name} {value!r} names no function.", "Write module:function.")


@dataclass
class Source(SourceSettings):
    """One source of a corpus.

    Attributes:
        path: File, folder, glob, URL, hub id, book ids or ``module:function``, as the format has it.
        weight: Its share of the training tokens, against the other sources' weights; None takes it as it comes.
        name: What cards and reports call it; by default the path.
        split: The split that all its documents belong to; None splits them by their content.
    """

    path: str = ""
    weight: float | None = None
    name: str = ""
    split: Literal["train", "validation", "test"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("--source has no path.", "Write --source format=text,path=FOLDER.")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ConfigError(f"--source weight={self.weight} is no weight.", "Give a number above 0.")
        if self.weight is not None and self.split in ("validation", "test"):
            raise ConfigError(f"--source weight={self.weight} is for training data.", f"Leave it out of the {self.split} source.")
        self.name = self.name or without_secrets(self.path)


def without_secrets(url: str) -> str:
    """`url` as it may be shown: without user, password, query (which may be signed) and fragment; a path as it is."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("/")
    if protocol in ("http", "https"):
        path = path.partition("?")[0].partition("#")[0]
        host = host.partition("?")[0].partition("#")[0]
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def parse_source(given: str | Mapping[str, Any], settings: SourceSettings) -> Source:
    """A source from ``key=value,…``, a JSON object or a mapping; what it leaves out is as in `settings`.

    A value goes on up to the next ``,key=``, so that it may hold commas itself.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or an impossible value.
    """
    hints = get_type_hints(Source)
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = dict(json.loads(given))
        except ValueError as error:
            raise ConfigError(f"--source {given!r} is no JSON: {error}.", "Write key=value,… instead.") from None
    values = dict(given) if isinstance(given, Mapping) else _pairs(given, hints)
    inherited = {item.name: getattr(settings, item.name) for item in dataclasses.fields(SourceSettings)}
    for key, value in values.items():
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            raise ConfigError(
                f"--source: unknown key {key!r}.", f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(hints))}."
            )
        inherited[key] = _convert(key, value, hints[key])
    return Source(**inherited)


def _pairs(given: str, known: Mapping[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    last = None
    for part in given.split(","):
        key, equals, value = part.partition("=")
        if equals and (key.strip() in known or last is None):
            last = key.strip()
            if last in values:
                raise ConfigError(f"--source {given!r}: {last} is given twice.", "Give each key once.")
            values[last] = value
        elif last is None:
            raise ConfigError(f"--source {given!r} has no key=value.", "Write --source format=text,path=FOLDER.")
        else:
            values[last] += f",{part}"
    return values


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type; text comes from a command line, the rest from YAML."""
    kinds = get_args(hint) if get_origin(hint) is not Literal and type(None) in get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(item for item in kinds if item is not type(None))
    try:
        if get_origin(kind) is Literal:
            if str(value) not in get_args(kind):
                raise ConfigError(f"--source {key}={value}: unknown value.", f"Give one of {', '.join(get_args(kind))}.")
            return str(value)
        if get_origin(kind) is list:
            return [str(item) for item in value] if isinstance(value, list) else str(value).replace(",", " ").split()
        if isinstance(value, (list, dict)):
            raise ValueError
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        return kind(value)
    except (ValueError, KeyError):
        wanted = getattr(kind, "__name__", str(kind))
        raise ConfigError(f"--source {key}={value}: not of type {wanted}.", "Mend the value.") from None
