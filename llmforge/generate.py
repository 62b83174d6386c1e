"""llmforge generate --model runs/NAME/final --prompt 'func main() {'
llmforge generate --model runs/NAME/final --prompt_file prompts.txt --output completions.jsonl
llmforge generate --model runs/NAME/final --field equipment='Volvo L60H' --field symptom='Boom drifts'
llmforge generate --model runs/NAME/final --interactive

Text from a model: one prompt, standard input, a file of prompts, the fields of a task, or a dialogue. A model that was
fine-tuned on a task is asked as it was trained, by the task.yaml beside it; `--task completion` takes prompts as they stand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmforge.configs.generation import GenerateArguments, GenerationArguments
from llmforge.errors import ConfigError, DataError
from llmforge.parsing import ForgeParser
from llmforge.pretrained.folder import find_folder
from llmforge.pretrained.loading import Pretrained, load_pretrained_model
from llmforge.runtime.commands import run_command
from llmforge.runtime.logs import logger, printable, set_up_logging
from llmforge.sampling.completions import Completion, check_prompts, completions, encode_prompt
from llmforge.sampling.dialogue import converse
from llmforge.storage.files import new_file
from llmforge.tasks.files import find_task, load_task, parse_fields
from llmforge.tasks.task import Task


def read_prompts(args: GenerateArguments, generation: GenerationArguments) -> list[str]:
    """The prompts that are given, by whatever way.

    Raises:
        DataError: The file cannot be read, a line of it has no prompt, or there is none at all.
        ConfigError: No prompt is given, and standard input is a terminal.
    """
    if args.prompt_file is not None:
        return _prompts_of_file(args.prompt_file)
    if args.prompt is not None and args.prompt != "-":
        return [args.prompt, *generation.prompts]
    if args.prompt is None and generation.prompts:
        return generation.prompts
    if args.prompt is None and sys.stdin.isatty():
        raise ConfigError("There is no prompt.", "Give --prompt TEXT, --prompt_file FILE or --interactive.")
    return [sys.stdin.read().removesuffix("\n"), *generation.prompts]


def _prompts_of_file(given: str) -> list[str]:
    try:
        lines = Path(given).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt_file {given} cannot be read: {error}.", "Give a text file, a prompt a line.") from error
    prompts, empty = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            empty += number < len(lines)  # what follows the last line's end is none
        elif given.endswith(".jsonl"):
            try:
                prompt = json.loads(line)["prompt"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"--prompt_file {given}, line {number} has no field prompt.", 'Write {"prompt": "…"}.') from None
            if not isinstance(prompt, str):
                raise DataError(f"--prompt_file {given}, line {number}: the prompt is no text.", 'Write {"prompt": "…"}.')
            prompts.append(prompt)
        else:
            prompts.append(line.removesuffix("\r"))
    if empty:
        logger.warning("%s: %d empty lines are no prompts", given, empty)
    if not prompts:
        raise DataError(f"--prompt_file {given} has no prompts.", "Write a prompt a line.")
    return prompts


def task_of(args: GenerateArguments) -> Task | None:
    """The task that ``--task`` names, or the one that is saved beside the model; None where there is neither.

    Raises:
        ConfigError: There is none, and fields are given.
    """
    if args.task is not None:
        return find_task(args.task)
    found = load_task(find_folder(str(args.model)))
    if found is None and args.field:
        raise ConfigError(f"--field {args.field[0]}: there is no task.yaml beside the model.", "Give --task FILE.")
    return found


def ask(model: str, row: Mapping[str, Any], seed: int = 0) -> str:
    """What a fine-tuned model answers to the fields of its task, prompt included, by the task's own settings.

    Args:
        model: Its folder, or its run's, with the ``task.yaml`` that fine-tuning left there.
        row: Fields by name, or the ``messages`` of a chat.
        seed: Same seed, same text on the same device.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: There is no task beside it.
        DataError: A field that the prompt needs is missing.
    """
    task = load_task(find_folder(model))
    if task is None:
        raise ConfigError(f"{model}: there is no task.yaml beside the model.", "Fine-tune it on a task first.")
    found = load_pretrained_model(model)
    _to_device(found)
    task = task.for_tokenizer(found.tokenizer)
    prompt = task.render_prompt(row)
    settings = task.generation_arguments(GenerationArguments())
    return prompt + completions(found.model, found.tokenizer, [prompt], settings, seed)[0].text


def _to_device(found: Pretrained) -> None:
    import torch

    if torch.accelerator.is_available():
        found.model.to(torch.accelerator.current_accelerator())


def generated(
    found: Pretrained, prompts: Sequence[str], generation: GenerationArguments, seed: int, streaming: bool = False
) -> Iterator[dict[str, Any]]:
    """A record a completion: every prompt by every strategy.

    Args:
        streaming: Show prompt and completion on standard output as they are made.
    """
    for strategy, settings in generation.by_strategy().items():
        for number, prompt in enumerate(prompts):

            def show(piece: str) -> None:
                sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
                sys.stdout.flush()

            if streaming:
                show(prompt)
            made: Completion = completions(
                found.model, found.tokenizer, [prompt], settings, seed + number, show if streaming else None
            )[0]
            if streaming:
                show("\n")
            yield {"prompt": prompt, **asdict(made), "strategy": strategy, "seed": seed + number}


def _warn_of_guesses(found: Pretrained, records: Sequence[dict[str, Any]]) -> None:
    """Say that a model was asked for more than it has ever seen at once, where it has more positions than that."""
    if found.context >= found.model.config.max_position_embeddings:
        return
    lengths = [len(encode_prompt(record["prompt"], found.tokenizer)) + record["tokens"] for record in records]
    over = sum(length > found.context for length in lengths)
    if over:
        logger.warning(
            "%d of %d texts are longer than the %d tokens that the model was trained on at a time: beyond them it guesses. "
            "Give a shorter prompt, or a smaller --max_new_tokens",
            over,
            len(records),
            found.context,
        )


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The command line of `llmforge generate`; what was generated, a record a completion."""
    parser = ForgeParser([GenerateArguments, GenerationArguments], prog="llmforge generate", description="Text from a model.")
    parser.set_defaults(strategies=[])  # the settings themselves, unless strategies are asked for
    parsed = parser.parse(argv)
    args, generation = parsed.get(GenerateArguments), parsed.get(GenerationArguments)
    set_up_logging()
    if args.model is None:
        raise ConfigError("--model is not given.", "Give --model DIR, such as runs/NAME/final.")
    task = task_of(args)
    row = parse_fields(args.field, task) if task is not None and args.field else None
    if task is not None and row is not None:
        task.render_prompt(row, "--field")  # refused before the model is loaded
    prompts = read_prompts(args, generation) if row is None and not args.interactive else []
    found = load_pretrained_model(args.model, args.base_model)
    if task is not None:
        task = task.for_tokenizer(found.tokenizer)
        generation = task.generation_arguments(generation, parsed.given)
        prompts = [task.ask(prompt) for prompt in prompts] if row is None else [task.render_prompt(row, "--field")]
    check_prompts(prompts, found.tokenizer, found.model.config.max_position_embeddings)
    _to_device(found)
    if args.interactive:
        converse(found, generation, args.seed, task)
        return []
    records: list[dict[str, Any]] = []
    if args.output is None:
        plain = len(prompts) == 1 and not generation.strategies and not args.json
        for record in generated(found, prompts, generation, args.seed, streaming=plain):
            records.append(record)
            if not plain:
                print(json.dumps(record, ensure_ascii=False), flush=True)
        _warn_of_guesses(found, records)
        return records
    with new_file(args.output) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for record in generated(found, prompts, generation, args.seed):
            records.append(record)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    _warn_of_guesses(found, records)
    if args.json:
        print(json.dumps({"output": args.output, "completions": len(records)}))
    else:
        logger.info("%d completions written to %s", len(records), args.output)
    return records


if __name__ == "__main__":
    sys.exit(run_command(main))
