"""A model at the terminal: what is typed, commands, and the model's answers as they are made."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError, LlmforgeError
from llmforge.pretrained.loading import Pretrained
from llmforge.runtime.logs import printable
from llmforge.sampling.completions import continue_ids
from llmforge.sampling.turns import turns_of
from llmforge.storage.records import write_text
from llmforge.tasks.task import Task

#: What a setting is called at the prompt, and what it is made of.
_SETTINGS = {"temperature": float, "top_p": float, "top_k": int, "max_new_tokens": int}
HELP = """A line that ends in \\ goes on in the next one; between two lines of \"\"\" everything is one text.
Ctrl-C stops an answer.
  /temperature 0.7   also /top_p, /top_k, /max_new_tokens; alone, says what it is
  /reset             forget what was said
  /save FILE         write what was said
  /quit              or Ctrl-D"""


class Dialogue:
    """What was said, and how the model answers.

    Args:
        found: The model.
        args: Sampling settings; ``/temperature`` and the like change them.
        seed: Of the first answer; each answer has the next one.
        write: Takes what is shown.
        task: What the model was trained for, bound to its tokenizer; None goes on with plain text.

    Attributes:
        turns: All that was said.
    """

    def __init__(
        self, found: Pretrained, args: GenerationArguments, seed: int, write: Callable[[str], None], task: Task | None = None
    ):
        self.found, self.args, self.seed, self.write = found, args, seed, write
        self.turns = turns_of(task)

    def take(self, typed: str) -> None:
        """Take what was typed, and answer when it is the model's turn.

        Raises:
            ConfigError: It cannot be asked; what was said before stays.
        """
        if not self.turns.take(typed):
            return
        context = self.found.context
        room = max(context - 1 - min(self.args.max_new_tokens, context // 2), 1)
        ids, note = self.turns.ids(self.found.tokenizer, room)
        if note:
            self.write(f"[{note}]\n")
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            self.write(printable(piece))

        try:
            continue_ids(self.found.model, self.found.tokenizer, ids, self.args, self.seed, show)
        except KeyboardInterrupt:
            self.write(" [stopped]")
        self.seed += 1
        self.turns.answered("".join(pieces))
        self.write("\n")

    def command(self, line: str) -> bool:
        """Do what a line with a slash says; whether the dialogue goes on."""
        name, _, value = line[1:].strip().partition(" ")
        value = value.strip()
        if name in ("quit", "exit"):
            return False
        if name == "help":
            self.write(f"{self.turns.about}\n{HELP}\n")
        elif name == "reset":
            self.turns.reset()
            self.write("[forgotten]\n")
        elif name == "save" and value:
            path = Path(value).expanduser()
            self.write(f"[written to {write_text(path, self.turns.transcript(path))}]\n")
        elif name in _SETTINGS:
            self._set(name, value)
        else:
            raise ConfigError(f"{line.strip()}: no such command.", "/help lists them.")
        return True

    def _set(self, name: str, value: str) -> None:
        if value:
            try:
                self.args = replace(self.args, **{name: _SETTINGS[name](value)})
                if name != "max_new_tokens":  # who sets how it samples wants it to, whatever it did before
                    self.args = replace(self.args, do_sample=True, num_beams=1)
            except ValueError:
                raise ConfigError(f"/{name} {value}: not a number.", "") from None
        self.write(f"[{name} {getattr(self.args, name)}]\n")


def typed(read: Callable[[str], str], label: Callable[[], str] = lambda: "> ") -> Iterator[str]:
    """What is typed, a text at a time: lines that end in a backslash go on, and so does all between two of \"\"\"."""
    while True:
        try:
            line = read(label())
            if line.strip() == '"""':
                lines = []
                while (line := read("… ")).strip() != '"""':
                    lines.append(line)
                yield "\n".join(lines)
                continue
            while line.endswith("\\"):
                line = line[:-1] + "\n" + read("… ")
        except EOFError:
            return
        yield line


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ctrl-C interrupts an answer, each time it is pressed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def converse(
    found: Pretrained,
    args: GenerationArguments,
    seed: int = 0,
    task: Task | None = None,
    read: Callable[[str], str] = input,
) -> Dialogue:
    """Talk until ``/quit``, the end of the input, or Ctrl-C where nothing is being answered."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history for `input`

    dialogue = Dialogue(found, args, seed, write, task)
    known = f", task {task.name}" if task is not None else ""
    write(f"{found.path}{known}, context {found.context}. /help says what can be typed.\n")
    with _own_interrupts(), contextlib.suppress(KeyboardInterrupt):
        for line in typed(read, lambda: dialogue.turns.label):
            try:
                if line.startswith("/"):
                    if not dialogue.command(line):
                        break
                else:
                    dialogue.take(line)
            except LlmforgeError as error:
                write(f"{error}\n")
    return dialogue
