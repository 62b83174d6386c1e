"""llmforge export --model runs/NAME/final --output model.gguf
llmforge export --model runs/NAME/final --format safetensors --dtype bf16 --output model/
llmforge export --model runs/NAME/final --output model.gguf --verify_only

A trained model as one GGUF file for llama.cpp and Ollama, or as a safetensors folder. What was written is opened by
its reader and compared with the model before it is kept: the ids of some thousand lines, log-probabilities at some
hundred prefixes. An export that differs is not left behind.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.configs.export import ExportArguments
from llmforge.errors import CheckFailed, ConfigError
from llmforge.exporting.card import Origin, model_card, origin_of, summary
from llmforge.exporting.check import CheckResult, check_export, lines_to_verify
from llmforge.exporting.folder import TransformersReader, write_folder
from llmforge.exporting.modelfile import modelfile
from llmforge.exporting.places import CARD, MODELFILE, beside, check_place, refuse_original
from llmforge.exporting.server import GgufServer, has_reader
from llmforge.parsing import ForgeParser
from llmforge.pretrained.loading import Pretrained, load_pretrained_model
from llmforge.runtime.commands import run_command
from llmforge.runtime.devices import available_cores, format_bytes
from llmforge.runtime.logs import console, logger, set_up_logging
from llmforge.storage.files import new_file, new_folder, sweep_partial
from llmforge.storage.records import write_text
from llmforge.tasks.files import published_template

if TYPE_CHECKING:
    from llmforge.exporting.gguf_file import About

#: Parameters from which llama.cpp is given all cores.
_WORTH_THREADS = 50_000_000


@dataclass
class ExportResult:
    """What came of an export.

    Attributes:
        output: The file, or the folder.
        format: ``gguf`` or ``safetensors``.
        dtype: How matrices are kept.
        bytes: Of the file, or of all files in the folder.
        parameters: Of the model as it was written.
        check: What the check found; None where it was not made.
        command: What checks it.
        card: The model card.
        modelfile: Ollama's; None for a folder.
        kept_f16: Tensors that cannot be q8_0 and are f16.
    """

    output: Path
    format: str
    dtype: str
    bytes: int
    parameters: int
    check: CheckResult | None
    command: str
    card: Path | None = None
    modelfile: Path | None = None
    kept_f16: int = 0

    @property
    def verified(self) -> bool:
        """Whether its reader has opened it and found the same model."""
        return self.check is not None

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        paths = {name: str(value) if value else None for name, value in (("card", self.card), ("modelfile", self.modelfile))}
        return {
            "verified": self.verified,
            "output": str(self.output),
            "format": self.format,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "parameters": self.parameters,
            **paths,
            "tensors_kept_f16": self.kept_f16,
            "check": self.check.as_json() if self.check else None,
            "verify_command": self.command,
        }


def export_model(args: ExportArguments) -> ExportResult:
    """Export the model that `args` names, check it, and write its card beside it.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: Nothing to export or nowhere to write is given, or the format cannot hold such a model.
        DataError: ``--verify_corpus`` cannot be read.
        CheckFailed: What was written is not the model; what stood there before is untouched.
        StorageError: It could not be written; what stood there before is untouched.
    """
    if args.model is None or args.output is None:
        raise ConfigError(
            f"--{'model' if args.model is None else 'output'} is not given.", "Give --model DIR and --output FILE (gguf) or DIR."
        )
    output = Path(args.output).expanduser()
    check_place(output, args)
    found = load_pretrained_model(args.model, args.base_model)
    if not args.verify_only:
        refuse_original(output, found)
    lines = lines_to_verify(found.tokenizer, args.verify_corpus) if args.verify else []
    if args.verify_only:
        return _verified(found, output, args, lines)
    # Resolved: a folder is put in place by its name, which `.` is not.
    sweep_partial(output.resolve().parent)
    return (_to_gguf if args.format == "gguf" else _to_folder)(found, output.resolve(), args, lines)


def _about(origin: Origin, found: Pretrained, args: ExportArguments) -> About:
    from llmforge.exporting.gguf_file import About

    task = origin.task.to_yaml() if origin.task is not None else ""
    template = published_template(origin.task, found.tokenizer) or ""
    return About(args.name or origin.name, summary(origin), args.license or origin.license, task, template)


def _to_gguf(found: Pretrained, output: Path, args: ExportArguments, lines: Sequence[str]) -> ExportResult:
    from llmforge.exporting.gguf_file import write_gguf

    origin = origin_of(found)
    about = _about(origin, found, args)
    check = None
    with contextlib.ExitStack() as placing:  # in whose reverse order files are put in place: the model when all else is there
        temporary = placing.enter_context(new_file(output))
        kept = write_gguf(found.model, found.tokenizer, temporary, args.dtype, about)
        if args.verify and has_reader():
            check = _check_gguf(found, temporary, args, lines, output)
        elif args.verify:
            logger.warning(
                "llama.cpp is not installed: the file is not verified. pip install 'llmforge[gguf]', then: %s", _command(args)
            )
        texts = {
            CARD: _card(found, origin, args, about, output.name, check),
            MODELFILE: modelfile(found, origin.task, output.name, about.license),
        }
        for suffix, text in texts.items():
            placing.enter_context(new_file(beside(output, suffix))).write_text(text, encoding="utf-8", newline="\n")
    size = output.stat().st_size
    result = ExportResult(output, args.format, args.dtype, size, _parameters(found), check, _command(args), kept_f16=len(kept))
    result.card, result.modelfile = beside(output, CARD), beside(output, MODELFILE)
    return result


def _check_gguf(found: Pretrained, path: Path, args: ExportArguments, lines: Sequence[str], output: Path) -> CheckResult:
    threads = available_cores() if found.model.num_parameters() > _WORTH_THREADS else 1
    try:
        with GgufServer(path, found.model.config.max_position_embeddings, threads) as reader:
            return check_export(reader, found.model, found.tokenizer, lines, args.dtype, f"--output {output}")
    except CheckFailed as error:
        kept = "" if args.verify_only else " It was not kept."
        raise CheckFailed(error.problem.replace(str(path), str(output)) + kept, error.remedy) from error


def _to_folder(found: Pretrained, output: Path, args: ExportArguments, lines: Sequence[str]) -> ExportResult:
    origin = origin_of(found)
    about = _about(origin, found, args)
    check = None
    with new_folder(output, replace=True) as staging:
        write_folder(found, staging, args.dtype, about.chat_template or None)
        if origin.task is not None:
            origin.task.save(staging)
        if args.verify:
            check = check_export(
                TransformersReader(staging), found.model, found.tokenizer, lines, args.dtype, f"--output {output}"
            )
        write_text(staging / "README.md", _card(found, origin, args, about, output.name, check))
        size = sum(path.stat().st_size for path in staging.iterdir())
    card = output / "README.md"
    return ExportResult(output, args.format, args.dtype, size, _parameters(found), check, _command(args), card)


def _verified(found: Pretrained, output: Path, args: ExportArguments, lines: Sequence[str]) -> ExportResult:
    """Check what is there, and write nothing."""
    if output.is_dir() != (args.format == "safetensors"):
        raise ConfigError(f"--output {output} is no --format {args.format}.", "Give the format it was exported in.")
    if args.format == "gguf":
        check = _check_gguf(found, output, args, lines, output)
        size = output.stat().st_size
    else:
        check = check_export(TransformersReader(output), found.model, found.tokenizer, lines, args.dtype, f"--output {output}")
        size = sum(path.stat().st_size for path in output.iterdir())
    return ExportResult(output, args.format, args.dtype, size, _parameters(found), check, _command(args))


def _parameters(found: Pretrained) -> int:
    """Of the model without the rows that stand for no token."""
    tables = 1 if found.model.config.tie_word_embeddings else 2
    return int(found.model.num_parameters()) - tables * max(found.spare_rows, 0) * found.model.config.hidden_size


def _command(args: ExportArguments) -> str:
    base = ["--base_model", args.base_model] if args.base_model else []
    words = ["--model", str(args.model), *base, "--format", args.format, "--dtype", args.dtype, "--output", str(args.output)]
    return shlex.join(["llmforge", "export", *words, "--verify_only"])


def _card(found: Pretrained, origin: Origin, args: ExportArguments, about: About, file: str, check: CheckResult | None) -> str:
    return model_card(found, origin, about.name, about.license, file, args.dtype, check, _command(args))


def _show(result: ExportResult, args: ExportArguments) -> None:
    terminal = console()

    def tell(line: str) -> None:
        terminal.print(line, highlight=False, markup=False, soft_wrap=True)

    done = "Checked" if args.verify_only else "Wrote"
    tell(f"{done} {result.output}: {result.parameters:,} parameters in {result.dtype}, {format_bytes(result.bytes)}")
    if result.check is not None:
        check = result.check
        tell(
            f"Verified by {check.reader}: ids of {check.lines:,} lines equal; after {check.prefixes} prefixes log-probabilities "
            f"{check.error:.2%} of their spread off (bound {check.bound:.1%}), perplexity {check.perplexity:.5g} for "
            f"{check.original_perplexity:.5g}"
        )
    else:
        tell(f"Not verified. This does it: {result.command}")
    if result.kept_f16:
        tell(f"{result.kept_f16} tensors are f16: their rows are no multiple of 32 long")
    if result.card:
        tell(f"Model card {result.card}")
    if result.modelfile:
        tell(f"For Ollama: ollama create NAME -f {result.modelfile}")


def main(argv: Sequence[str] | None = None) -> ExportResult:
    """The command line of `llmforge export`."""
    parser = ForgeParser(
        [ExportArguments], prog="llmforge export", description="A trained model as GGUF or safetensors, verified."
    )
    args = parser.parse(argv).get(ExportArguments)
    set_up_logging()
    result = export_model(args)
    if args.json:
        print(json.dumps(result.as_json()))
    else:
        _show(result, args)
    return result


if __name__ == "__main__":
    sys.exit(run_command(main))
