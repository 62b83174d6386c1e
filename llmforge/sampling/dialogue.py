"""A model at the terminal: each line that is typed is added to the text so far, and the model goes on from there.

The model was trained to go on with a text, so the history is the text itself, not a list of roles.
"""

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
from llmforge.sampling.completions import continue_ids, encode_prompt
from llmforge.storage import write_text

#: What a setting is called at the prompt, and what it is made of.
_SETTINGS = {"temperature": float, "top_p": float, "top_k": int, "max_new_tokens": int}
HELP = """Type a text and press Enter: the model goes on from it, and from all that was said before.
A line that ends in \\ goes on in the next one; between two lines of \"\"\" everything is one text. Ctrl-C stops an answer.
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

    Attributes:
        text: All that was said.
    """

    def __init__(self, found: Pretrained, args: GenerationArguments, seed: int, write: Callable[[str], None]):
        self.found, self.args, self.seed, self.write = found, args, seed, write
        self.text = ""

    def answer(self, line: str) -> None:
        """Go on from what was said and `line`."""
        self.text += ("\n" if self.text else "") + line
        ids = self._ids()
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            self.write(printable(piece))

        try:
            continue_ids(self.found.model, self.found.tokenizer, ids, self.args, self.seed, show)
        except KeyboardInterrupt:
            self.write(" [stopped]")
        self.seed += 1
        self.text += "".join(pieces)
        self.write("\n")

    def _ids(self) -> list[int]:
        """The text so far as ids; its end, where it leaves too little room for an answer."""
        start, *ids = encode_prompt(self.text, self.found.tokenizer)
        context = self.found.context
        room = max(context - 1 - min(self.args.max_new_tokens, context // 2), 1)
        if len(ids) > room:
            self.write(f"[only the last {room} of {len(ids)} tokens fit in the context]\n")
        return [start, *ids[-room:]]

    def command(self, line: str) -> bool:
        """Do what a line with a slash says; whether the dialogue goes on."""
        name, _, value = line[1:].strip().partition(" ")
        value = value.strip()
        if name in ("quit", "exit"):
            return False
        if name == "help":
            self.write(HELP + "\n")
        elif name == "reset":
            self.text = ""
            self.write("[forgotten]\n")
        elif name == "save" and value:
            self.write(f"[written to {write_text(Path(value).expanduser(), self.text + chr(10))}]\n")
        elif name in _SETTINGS:
            self._set(name, value)
        else:
            raise ConfigError(f"/{name} {value}: no such command.", "/help lists them.")
        return True

    def _set(self, name: str, value: str) -> None:
        if value:
            try:
                self.args = replace(
                    self.args, **{name: _SETTINGS[name](value)}, do_sample=name != "max_new_tokens" or self.args.do_sample
                )
            except ValueError:
                raise ConfigError(f"/{name} {value}: not a number.", "") from None
        self.write(f"[{name} {getattr(self.args, name)}]\n")


def typed(read: Callable[[str], str]) -> Iterator[str]:
    """What is typed, a text at a time: lines that end in a backslash go on, and so does all between two of \"\"\"."""
    while True:
        try:
            line = read("> ")
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


def converse(found: Pretrained, args: GenerationArguments, seed: int = 0, read: Callable[[str], str] = input) -> Dialogue:
    """Talk until ``/quit``, the end of the input, or Ctrl-C where nothing is being answered."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history for `input`

    dialogue = Dialogue(found, args, seed, write)
    write(f"{found.path}, context {found.context}. /help says what can be typed.\n")
    with _own_interrupts(), contextlib.suppress(KeyboardInterrupt):
        for line in typed(read):
            try:
                if line.startswith("/"):
                    if not dialogue.command(line):
                        break
                elif line.strip() or dialogue.text:
                    dialogue.answer(line)
            except LlmforgeError as error:
                write(f"{error}\n")
    return dialogue
