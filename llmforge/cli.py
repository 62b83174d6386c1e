"""The ``llmforge`` command: a table from verbs to modules, imported when their verb is called."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from llmforge.errors import ConfigError
from llmforge.runtime.commands import run_command

#: Verb → (module, what it does).
VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("llmforge.doctor", "what this machine can do, and what is wrong with it"),
    "tokenizer": ("llmforge.tokenizer", "train a byte-level BPE, or see how one fits a corpus"),
    "prepare": ("llmforge.prepare", "corpus to split, tokenized, packed dataset"),
    "convert": ("llmforge.convert", "scenario text, questions or chats to the rows of a task"),
    "plan": ("llmforge.plan", "memory, time and disk of a training before it runs; --list_presets"),
    "pretrain": ("llmforge.pretrain", "train a model from scratch"),
    "finetune": ("llmforge.finetune", "fine-tune a model on a task or on more text, fully or by LoRA"),
    "evaluate": ("llmforge.evaluation", "how well a model predicts a text: perplexity, bits per byte, accuracy"),
    "generate": ("llmforge.generate", "text from a model: once, from a file, or as a dialogue"),
    "export": ("llmforge.export", "a trained model as GGUF or safetensors, verified"),
    "monitor": ("llmforge.monitor", "watch a run in the terminal, while it goes on or afterwards"),
    "report": ("llmforge.report", "one self-contained HTML page of a run, or of several compared"),
    "checkpoints": ("llmforge.checkpoints.inspect", "list, view, compare, verify and prune the checkpoints of a run"),
}


def usage() -> str:
    """The text of ``llmforge --help``."""
    lines = ["usage: llmforge VERB …", "", "From a folder of your own text to a trained language model.", "", "verbs:"]
    lines += [f"  {verb:<11} {text}" for verb, (_, text) in VERBS.items()]
    lines += ["", "`llmforge VERB --help` lists a verb's flags; `--debug` shows tracebacks; `--version` names the stack."]
    return "\n".join(lines)


def _tell_versions(arguments: Sequence[str]) -> None:
    """Print the versions of the stack, a line each, or with ``--json`` as one object; imports none of it."""
    from llmforge.runtime.versions import stack_versions

    if unknown := [item for item in arguments if item != "--json"]:
        raise ConfigError(f"llmforge --version {unknown[0]}: no such flag.", "It takes --json only.")
    versions = stack_versions()
    if arguments:
        print(json.dumps(versions))
        return
    built = versions.pop("torch_build")
    for name, version in versions.items():
        note = f" ({built})" if name == "torch" and version and built else ""
        print(f"{'Python' if name == 'python' else name:<12}  {version or 'not installed'}{note}")


def _dispatch(argv: Sequence[str] | None) -> Any:
    arguments = list(argv or [])
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return None
    if arguments[0] == "--version":
        return _tell_versions(arguments[1:])
    verb, *rest = arguments
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise ConfigError(
            f"llmforge {verb}: no such verb.", f"Did you mean {close[0]}?" if close else f"Known: {', '.join(VERBS)}."
        )
    return importlib.import_module(VERBS[verb][0]).main(rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``llmforge VERB …`` and return its exit code."""
    return run_command(_dispatch, argv)


if __name__ == "__main__":
    sys.exit(main())
