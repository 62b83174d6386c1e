"""What was said in a dialogue, and what the model is given for it: a text that goes on, a chat, or the fields of a task.

A model that was trained on plain text goes on with the text itself. One that was trained on a task is asked as it was in
training: a chat with all messages so far, other tasks field by field and each question by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmforge.errors import ConfigError
from llmforge.sampling.completions import encode_prompt
from llmforge.tasks.files import parse_fields
from llmforge.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Turns(Protocol):
    """What was said so far."""

    about: str  # what to type, for people

    @property
    def label(self) -> str:
        """What stands before the line that is typed next."""

    def take(self, typed: str) -> bool:
        """Take what was typed; whether it is the model's turn."""

    def ids(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], str]:
        """What the model is given, of at most `room` tokens after the first, and what was left out for that, for people."""

    def answered(self, text: str) -> None:
        """Take what the model said."""

    def reset(self) -> None:
        """Forget what was said."""

    def transcript(self, path: Path) -> str:
        """What was said, as it is written to `path`."""


class TextTurns:
    """A text: each line that is typed is added to it."""

    about = "Type a text and press Enter: the model goes on from it, and from all that was said before."
    label = "> "

    def __init__(self) -> None:
        self.text = ""

    def take(self, typed: str) -> bool:
        """An empty line lets the model go on."""
        if not typed.strip() and not self.text:
            return False
        self.text += ("\n" if self.text else "") + typed
        return True

    def ids(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], str]:
        """The end of the text, where all of it is too long."""
        start, *ids = encode_prompt(self.text, tokenizer)
        note = f"only the last {room} of {len(ids)} tokens fit in the context" if len(ids) > room else ""
        return [start, *ids[-room:]], note

    def answered(self, text: str) -> None:
        """Becomes part of the text."""
        self.text += text

    def reset(self) -> None:
        """Begin an empty text."""
        self.text = ""

    def transcript(self, path: Path) -> str:
        """The text."""
        return self.text + "\n"


class ChatTurns:
    """Messages, which go through the chat template of the task anew for every answer."""

    about = "Say something and press Enter: the model answers, and remembers what was said."
    label = "> "

    def __init__(self, task: Task):
        self.task = task
        self.messages: list[dict[str, Any]] = []

    def take(self, typed: str) -> bool:
        """What the user says."""
        if typed.strip():
            self.messages.append({"role": "user", "content": typed})
        return bool(typed.strip())

    def ids(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], str]:
        """Without the earliest turns, where all of them are too long.

        Raises:
            ConfigError: What was said last is too long by itself.
        """
        users = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        for first in users:
            kept = self.messages[first:]
            ids = encode_prompt(self.task.render_prompt({"messages": kept}), tokenizer)
            if len(ids) - 1 <= room:
                self.messages = kept
                return ids, f"the first {first} messages no longer fit in the context" if first else ""
        said = self.messages.pop()["content"]
        raise ConfigError(f"{said[:40]!r}… is too long: {len(ids)} tokens, of which {room} fit.", "Say it in fewer words.")

    def answered(self, text: str) -> None:
        """What the assistant says, as a row of a chat has it: without the space that the template writes before it."""
        self.messages.append({"role": "assistant", "content": text.strip()})

    def reset(self) -> None:
        """Begin another chat."""
        self.messages = []

    def transcript(self, path: Path) -> str:
        """A row that can be trained on, into a file of JSON lines; else a paragraph a message."""
        if path.suffix == ".jsonl":
            return json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n"
        return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in self.messages) + "\n"


class FieldTurns:
    """The fields of a task's prompt, typed one after the other; every question stands by itself."""

    def __init__(self, task: Task):
        self.task = task
        self.rows: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self._given: list[str] = []
        self.about = f"Type {', '.join(task.prompt_fields)}, one after the other; Enter alone leaves out what need not be given."

    @property
    def _next(self) -> str:
        return self.task.prompt_fields[len(self._given)]

    @property
    def label(self) -> str:
        """The field's name."""
        return f"{self._next}> "

    def take(self, typed: str) -> bool:
        """The value of the next field.

        Raises:
            ConfigError: It is required, and nothing was typed.
        """
        if not typed.strip() and self.task.keys[self._next].required:
            raise ConfigError(f"The task {self.task.name} needs the field {self._next}.", "Type it, or /quit.")
        self._given.append(typed.strip())
        if len(self._given) < len(self.task.prompt_fields):
            return False
        given = zip(self.task.prompt_fields, self._given, strict=True)
        self.rows.append(parse_fields([f"{name}={value}" for name, value in given if value], self.task))
        self._given = []
        return True

    def ids(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], str]:
        """The task's prompt.

        Raises:
            ConfigError: It is too long.
        """
        ids = encode_prompt(self.task.render_prompt(self.rows[-1]), tokenizer)
        if len(ids) - 1 > room:
            self.rows.pop()
            raise ConfigError(f"That is too long: {len(ids)} tokens, of which {room} fit.", "Type less.")
        return ids, ""

    def answered(self, text: str) -> None:
        """Kept for `transcript`."""
        self.answers.append(text)

    def reset(self) -> None:
        """Begin with the first field again."""
        self.rows, self.answers, self._given = [], [], []

    def transcript(self, path: Path) -> str:
        """Prompts with what was answered."""
        asked = zip(self.rows, self.answers, strict=True)
        return "\n\n".join(self.task.render_prompt(row) + answer for row, answer in asked) + "\n"


def turns_of(task: Task | None) -> Turns:
    """The dialogue that a model of `task` was trained for."""
    if task is None or not (task.kind == "chat" or task.prompt_fields):
        return TextTurns()
    return ChatTurns(task) if task.kind == "chat" else FieldTurns(task)
