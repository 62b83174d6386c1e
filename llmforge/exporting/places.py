"""Where an export goes, and what it must not replace."""

from __future__ import annotations

import re
from pathlib import Path

from llmforge.configs.export import ExportArguments
from llmforge.errors import ConfigError
from llmforge.pretrained.loading import Pretrained
from llmforge.runtime.run_folder import RUN_RECORD

_MAGIC = b"GGUF"
#: What an exported folder consists of; one that holds anything else is never replaced.
_EXPORTED = re.compile(
    r"(generation_)?config\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|README\.md|chat_template\.jinja"
    r"|task\.yaml|additional_chat_templates|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt"
)
#: What lies beside a GGUF file, by suffix, and how it begins.
CARD, MODELFILE = ".md", ".Modelfile"
_BESIDE = {CARD: "---\npipeline_tag: text-generation\n", MODELFILE: "FROM ./"}


def beside(output: Path, suffix: str) -> Path:
    """The file of `suffix` that belongs to a GGUF file; ``a.q8_0`` and ``a.f16`` share none, with ``.gguf`` or without."""
    return output.with_name(output.name.removesuffix(".gguf") + suffix)


def _begins(path: Path, text: str) -> bool:
    with path.open("rb") as file:
        return file.read(len(text.encode())) == text.encode()


def check_place(output: Path, args: ExportArguments) -> None:
    """Refuse to write over what is no export, before anything is loaded."""
    if args.verify_only:
        if not output.exists():
            raise ConfigError(f"--output {output} is not there to be verified.", "Leave --verify_only out to write it.")
        return
    if args.format == "gguf":
        if output.is_dir():
            raise ConfigError(f"--output {output} is a folder.", f"Give a file, such as {output / 'model.gguf'}.")
        if output.is_file() and output.stat().st_size:
            with open(output, "rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:
                    raise ConfigError(
                        f"--output {output} is a file that is no GGUF, and would be replaced.", "Give another name."
                    )
        for suffix, begins in _BESIDE.items():
            path = beside(output, suffix)
            if path.exists() and not _begins(path, begins):
                raise ConfigError(f"--output {output}: {path} is there and would be replaced.", "Give another name.")
    elif output.exists() and (not output.is_dir() or not all(_EXPORTED.fullmatch(item.name) for item in output.iterdir())):
        raise ConfigError(f"--output {output} holds something that is no export, and would be replaced.", "Give another folder.")
    elif (output.resolve().parent / RUN_RECORD).exists():
        raise ConfigError(f"--output {output} belongs to a run.", "Give a folder outside of it.")


def refuse_original(output: Path, found: Pretrained) -> None:
    """See that neither the model nor its base would be replaced, nor a folder that they are in."""
    for original in (found.path, found.base):
        if original is not None and original.resolve().is_relative_to(output.resolve()):
            raise ConfigError(f"--output {output} is the model itself, or holds it.", "Give another folder.")
