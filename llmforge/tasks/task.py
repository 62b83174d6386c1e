"""What a model is asked and what it should answer: a task, described once in a YAML file.

All verbs read it, and it is saved beside the model as ``task.yaml``, so that a question is put as it was in training::

    name: diagnostics
    fields:
      equipment: {required: true, aliases: [Machine]}
      error_codes: {list: true}
      solution: {required: true}
    prompt: |-
      Equipment: {{ equipment }}
      Error codes: {{ error_codes | join(', ') or 'none' }}
      Solution:
    completion: " {{ solution }}"
    stop: ["\\nEquipment:"]
    generation: {max_new_tokens: 120, do_sample: false}
    truncate: left

Three tasks are built in: ``completion`` (prompt, completion), ``qa`` (question, answer, context) and ``chat`` (messages).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmforge.configs.generation import GenerationArguments
from llmforge.configs.tokenizer import END_OF_TEXT
from llmforge.data.formats.templates import CHAT_TEMPLATE, RecordRefused, Template, compile_template, names_in
from llmforge.errors import ConfigError, DataError
from llmforge.storage.records import write_text
from llmforge.tasks.fields import TaskField, TaskList, key_of, messages, values_of
from llmforge.tasks.prompts import Prompt
from llmforge.tasks.yaml_text import yaml_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What a task is called in a folder, beside a model or beside the rows that it is for.
TASK_FILE = "task.yaml"
#: Special tokens of a tokenizer of ours, by role.
SPECIAL = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}


class Piece(NamedTuple):
    """A part of a row's text, and whether it is to be learnt."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class Task:
    """A task; made by `load_task` or `find_task`.

    Attributes:
        name: For people.
        kind: ``fields``, or ``chat``, whose rows are lists of messages.
        fields: Of a row; empty for a chat.
        prompt: Jinja template of what the model is given; may name the fields and nothing else.
        completion: Jinja template of what it should write.
        chat_template: Jinja template of a chat, as Hugging Face's tokenizers have; None is the tokenizer's own, or ours.
        stop: Texts at which an answer ends.
        generation: Defaults for `GenerationArguments`.
        truncate: The side that is cut off where prompt and completion are longer than the context.
        special: Texts of the tokenizer's special tokens, by role; of a chat, its template may name them.

    Raises:
        ConfigError: A template that is none, names what is no field, or reaches for attributes.
    """

    name: str
    kind: Literal["fields", "chat"] = "fields"
    fields: tuple[TaskField, ...] = ()
    prompt: str = ""
    completion: str = ""
    chat_template: str | None = None
    stop: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)
    truncate: Literal["left", "right"] = "left"
    special: Mapping[str, str] = field(default_factory=SPECIAL.copy)

    def __post_init__(self) -> None:
        assert self._templates  # compiled here, so that a bad one is refused before any row is read

    @cached_property
    def _templates(self) -> tuple[Template, ...]:
        if self.kind == "chat":
            text = CHAT_TEMPLATE if self.chat_template is None else self.chat_template
            return (compile_template(text, "chat", f"{self.name}: chat_template", self.special),)
        example = {item.name: TaskList(["X"]) if item.is_list else "X" for item in self.fields}
        parts = {"prompt": self.prompt, "completion": self.completion}
        return tuple(compile_template(text, "fields", f"{self.name}: {part}", example) for part, text in parts.items())

    @cached_property
    def keys(self) -> dict[str, TaskField]:
        """Field by each word that it is known by, as `key_of` spells it."""
        return {key_of(word): item for item in self.fields for word in (item.name, *item.aliases)}

    @cached_property
    def written(self) -> str:
        """Text in which the special tokens stand that the chat template writes, itself or by name; of fields there is none."""
        if self.kind != "chat" or self.chat_template is None:
            return ""
        texts = [self.chat_template, *(text for role, text in self.special.items() if role in self.chat_template)]
        for roles in (("user", "assistant"), ("system", "user", "assistant")):  # some are put together from a role's name
            with contextlib.suppress(DataError, ConfigError):
                texts.append(self.chat_text([{"role": role, "content": "x"} for role in roles], "a probe", asks=True))
        return "\n".join(texts)

    def render(self, row: Mapping[str, Any], where: str = "the row") -> tuple[Prompt, str]:
        """What the model is given and what it should write.

        Args:
            row: Of a JSONL file: fields by name, or ``messages``.
            where: What messages call it: ``train.jsonl:3``.

        Returns:
            Prompt and completion; of a chat the completion is the last thing that the assistant says.

        Raises:
            DataError: A required field is missing or empty, or the row is not of this task.
        """
        pieces = self.pieces(row, where)
        return Prompt((piece.text for piece in pieces[:-1]), self.written), pieces[-1].text

    def pieces(self, row: Mapping[str, Any], where: str = "the row") -> list[Piece]:
        """The row's text in parts, of which the last is to be learnt; of a chat all that the assistant says is.

        Raises:
            DataError: As `render`.
        """
        if self.kind == "chat":
            return self._chat_pieces(row, where)
        values = self.values(row, where)
        prompt, completion = (self._text(template, values, where) for template in self._templates)
        if not completion.strip():
            raise DataError(f"{where}: the completion is empty.", "Give its fields a value, or leave the row out.")
        return [Piece(prompt, False), Piece(completion, True)]

    def render_prompt(self, row: Mapping[str, Any], where: str = "the prompt") -> Prompt:
        """What the model is given, of a row that need not have the fields of the completion.

        In tokens it is what training gave the model before an answer (`llmforge.sampling.completions.encode_prompt`), where the
        task is the one `for_tokenizer` made for the model's tokenizer.

        Raises:
            DataError: A required field that the prompt names is missing, or the row is not of this task.
        """
        if self.kind == "chat":
            return Prompt(self._asked_parts(messages(row, where), where), self.written)
        return Prompt([self._text(self._templates[0], self.values(row, where, self.prompt_fields), where)])

    def ask(self, text: str) -> Prompt:
        """What the model is given where a user types `text`: of a chat it is what the user says, else the prompt as it stands."""
        if self.kind == "chat":
            return self.render_prompt({"messages": [{"role": "user", "content": text}]})
        return Prompt([text])

    @cached_property
    def prompt_fields(self) -> tuple[str, ...]:
        """Names of the fields that the prompt is made of."""
        named = names_in(self.prompt)
        return tuple(item.name for item in self.fields if item.name in named)

    def values(
        self, row: Mapping[str, Any], where: str = "the row", needed: Iterable[str] | None = None
    ) -> dict[str, str | TaskList]:
        """The row's values by field; those it lacks are empty.

        Args:
            row: Fields by name or alias.
            where: What messages call it.
            needed: The fields that must be there if they are required; all if not given.

        Raises:
            DataError: A required field is missing or empty, a key stands for no field, or a value is no text.
        """
        wanted = None if needed is None else set(needed)
        return values_of(row, self.keys, self.fields, wanted, f"the task {self.name}", where)

    def _text(self, template: Template, values: Mapping[str, Any], where: str) -> str:
        try:
            return template.render(values, where)
        except RecordRefused as error:
            detail = f"{template.called} {error.line}: {error.detail}"
            raise DataError(f"{where}: {detail}.", "Mend the row or the template.") from None

    def chat_text(self, said: list[dict[str, Any]], where: str = "the chat", asks: bool = False) -> str:
        """The text of messages, without the start of text; with `asks`, up to where the assistant is to speak.

        Raises:
            DataError: The template refuses them.
        """
        text = self._text(self._templates[0], {"messages": said, "add_generation_prompt": asks, **self.special}, where)
        return text.removeprefix(self.special.get("bos_token", ""))  # every document begins with it anyway

    def _chat_pieces(self, row: Mapping[str, Any], where: str) -> list[Piece]:
        said = messages(row, where)
        answers = _answers(said)
        if not answers:
            remedy = "Give a message of the role assistant, or leave the row out."
            raise DataError(f"{where}: the assistant says nothing.", remedy)
        last = answers[-1]
        parts = self._asked_parts(said[:last], where)
        asked, whole = "".join(parts), self.chat_text(said[: last + 1], where, asks=False)
        if not whole.startswith(asked):
            remedy = "Write it so that a chat begins with the text of its beginning."
            raise DataError(f"{where}: {self._templates[0].called} does not keep prompt and answer apart.", remedy)
        # Every second part is an answer.
        return [*(Piece(part, place % 2 == 1) for place, part in enumerate(parts)), Piece(whole[len(asked) :], True)]

    def _asked_parts(self, said: list[dict[str, Any]], where: str) -> list[str]:
        """A chat up to where the assistant is to speak, its earlier answers apart; one part where they cannot be told apart.

        A template may write earlier messages otherwise than the last one.
        """
        asked, done = self.chat_text(said, where, asks=True), ""
        parts: list[str] = []
        for place in _answers(said):
            before, after = self.chat_text(said[:place], where, asks=True), self.chat_text(said[: place + 1], where, asks=False)
            if not (before.startswith(done) and after.startswith(before)):
                return [asked]
            parts += [before[len(done) :], after[len(before) :]]
            done = after
        return [*parts, asked[len(done) :]] if asked.startswith(done) else [asked]

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The same with the tokenizer's chat template (or ours), where the task has none, and its special tokens."""
        if self.kind != "chat":
            return self
        special = {role: str(getattr(tokenizer, role) or "") for role in ("bos_token", "eos_token")}
        own = getattr(tokenizer, "chat_template", None)
        template = self.chat_template
        if template is None:
            # What begins every document anyway is none of it, and stays text where a user types it.
            template = own.removeprefix("{{ bos_token }}") if isinstance(own, str) else CHAT_TEMPLATE
        return dataclasses.replace(self, chat_template=template, special=special)

    def generation_arguments(self, args: GenerationArguments, given: Iterable[str] = ()) -> GenerationArguments:
        """`args` with the task's defaults in place of those that the user did not give."""
        kept, own = set(given), {"stop_strings": list(self.stops), **self.generation}
        return dataclasses.replace(args, **{name: value for name, value in own.items() if name not in kept})

    @cached_property
    def stops(self) -> tuple[str, ...]:
        """`stop`, and what the chat template writes behind an answer where that is not the end of text."""
        behind = self.behind.strip()
        ends = behind.startswith(self.special["eos_token"] or behind)
        return self.stop if ends or not behind else tuple(dict.fromkeys((*self.stop, behind)))

    @cached_property
    def behind(self) -> str:
        """What the chat template writes behind an answer; of fields there is none."""
        told = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ANSWER"}]
        with contextlib.suppress(DataError, ConfigError):
            return self._chat_pieces({"messages": told}, "").pop().text.partition("ANSWER")[2] if self.kind == "chat" else ""
        return ""

    def to_yaml(self) -> str:
        """The text of the task file."""
        values: dict[str, Any] = {"name": self.name}
        if self.kind == "chat":
            values |= {"kind": "chat"} | ({} if self.chat_template is None else {"chat_template": self.chat_template})
            values |= {} if self.special == SPECIAL else {"special": dict(self.special)}
        else:
            names = {"required": "required", "is_list": "list", "aliases": "aliases"}
            values["fields"] = {
                item.name: {
                    name: list(value) if isinstance(value, tuple) else value
                    for own, name in names.items()
                    if (value := getattr(item, own))
                }
                for item in self.fields
            }
            values |= {"prompt": self.prompt, "completion": self.completion}
        if self.stop:
            values["stop"] = list(self.stop)
        if self.generation:
            values["generation"] = dict(self.generation)
        return yaml_text(values | {"truncate": self.truncate})

    def save(self, folder: Path) -> Path:
        """Write ``task.yaml`` into `folder`.

        Raises:
            StorageError: It cannot be written.
        """
        return write_text(folder / TASK_FILE, self.to_yaml())


def _answers(said: list[dict[str, Any]]) -> list[int]:
    """The places where the assistant says something."""
    return [place for place, message in enumerate(said) if message["role"] == "assistant" and message["content"].strip()]
