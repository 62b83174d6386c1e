"""llmforge evaluate --model runs/NAME/final --dataset_dir DIR --split test
llmforge evaluate --model runs/NAME/final --corpus FILE… --stride 256
llmforge evaluate --model runs/NAME/final --test_file data/diagnostics
llmforge evaluate --compare runs/A runs/B --corpus FILE…

How well a model predicts a text: loss, perplexity, bits per byte, accuracy, for each source and for all of it, with
confidence intervals, and what zstd makes of the same bytes; how well it answers the rows of a task; which of two models
is better. The figures are the Trainer's own evaluation, counted over tokens: no batch size and no number of processes
changes them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from llmforge.configs.data import DataArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.training import deferred_process_group
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.data.sources.corpus import check_corpus
from llmforge.errors import ConfigError
from llmforge.parsing import ForgeParser
from llmforge.pretrained.folder import find_folder
from llmforge.pretrained.loading import Pretrained, load_pretrained_model
from llmforge.pretrained.origin import trained_on, training_sources
from llmforge.recall import held_out, text_of_run
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import rank, rank_zero_first, world_size
from llmforge.runtime.logs import logger, set_up_logging
from llmforge.runtime.run_folder import timestamp
from llmforge.runtime.versions import installed_versions
from llmforge.sampling.completions import check_prompts
from llmforge.scoring.compare import compare
from llmforge.scoring.figures import LEVEL, RESAMPLES
from llmforge.scoring.harness import check_harness, run_harness
from llmforge.scoring.on_rows import evaluate_rows
from llmforge.scoring.on_text import evaluate_text
from llmforge.scoring.result import Comparison, Evaluation, answers_path, result_path, write_lines
from llmforge.scoring.rows import TestRows, read_test_rows
from llmforge.scoring.samples import STRATEGIES
from llmforge.scoring.show import show_comparison, show_evaluation, show_lm_eval
from llmforge.storage.records import write_json

#: What answers and samples are made with, where nothing else is said.
_GENERATION: dict[str, Any] = {"do_sample": False, "strategies": list(STRATEGIES)}

#: What a model is evaluated on: text that is prepared, where text is, or rows of a task.
Data = PreparedDataset | DataArguments | TestRows


def evaluate_model(
    args: EvaluationArguments, generation: GenerationArguments | None = None, given: Iterable[str] = ()
) -> Evaluation:
    """Evaluate the model that `args` names on its text or rows.

    Under a launcher every process calls it, and all get the result.

    Args:
        args: Model, and text or rows.
        generation: How answers and samples are made; by default greedily, and samples by several strategies.
        given: Its settings that go before those of a task.

    Raises:
        ConfigError: No model or no text is given, a context longer than the model's, separate worlds.
        CheckpointError: The model cannot be used.
        DataError: The text or a row cannot be read, or was tokenized for another model.
        StorageError: The cache cannot be written.
    """
    if args.model is None:
        raise ConfigError("--model is not given.", "Give --model DIR, such as runs/NAME/final.")
    if args.lm_eval:
        check_harness(args.lm_eval)
    model, folder = args.model, find_folder(args.model)
    args = on_own_data(args, folder)
    data = evaluation_data(args, folder)
    found = load_pretrained_model(model, args.base_model)
    return evaluate_on(found, data, args, generation, given)


def compare_models(
    args: EvaluationArguments, generation: GenerationArguments | None = None, given: Iterable[str] = ()
) -> Comparison:
    """Evaluate the models of ``args.compare`` on the same text or rows, and compare each with the first.

    Raises:
        LlmforgeError: As `evaluate_model`.
    """
    folders = [find_folder(model, "--compare") for model in args.compare]  # all of them, before the first takes its time
    args = on_own_data(args, folders[0])
    data = evaluation_data(args, folders[0])
    evaluations = []
    for model in args.compare:
        found = load_pretrained_model(model, flag="--compare")
        evaluations.append(evaluate_on(found, data, args, generation, given))
        logger.info("%s: %.3f bits a byte", found.path, evaluations[-1].total.bits_per_byte)
    return compare(evaluations)


def on_own_data(args: EvaluationArguments, model: Path) -> EvaluationArguments:
    """`args`, where they name neither text nor rows, with what the model's own run held out, if that is text and still there.

    Its training split is taken only where `args` ask for it.
    """
    data = None if args.has_text else text_of_run(model)
    splits = held_out(data) if data is not None else []
    if data is None or not (splits or args.split == "train"):
        return args
    split: Literal["train", "validation", "test"] = args.split if args.split in (*splits, "train") else splits[0]
    logger.info("on the %s split of the model's own run%s", split, "" if split == "train" else ", held out from training")
    return dataclasses.replace(args, dataset_dir=str(data.path), split=split)


def evaluation_data(args: EvaluationArguments, model: Path) -> Data:
    """What is to be evaluated on; `model` may have a task saved beside it.

    Raises:
        ConfigError, DataError: As `evaluate_model`.
    """
    if args.test_file is not None:
        return read_test_rows(args, model)
    if not args.has_text:
        raise ConfigError(
            "There is no text to evaluate on, and what the model's own run held out is not there.",
            "Give --dataset_dir DIR, --corpus FILES, or rows of a task by --test_file FILE.",
        )
    data = load_prepared(args.dataset_dir) if args.dataset_dir is not None else args.data()
    if isinstance(data, DataArguments):
        check_corpus(data)
    return data


def evaluate_on(
    found: Pretrained,
    data: Data,
    args: EvaluationArguments,
    generation: GenerationArguments | None = None,
    given: Iterable[str] = (),
) -> Evaluation:
    """Evaluate a model that is loaded; what else `evaluate_model` does.

    Args:
        found: The model.
        data: A prepared dataset, where text is, or rows of a task.
        args: Split, stride, context, batch size and precision.
        generation: As `evaluate_model`.
        given: The same.
    """
    positions = int(found.model.config.max_position_embeddings)
    if args.block_size is not None and args.block_size > positions:
        raise ConfigError(
            f"--block_size {args.block_size} is longer than the model's {positions} positions.", "Give a shorter one."
        )
    generation = generation or GenerationArguments(**_GENERATION)
    if isinstance(data, TestRows):
        data = data.for_model(found)
        generation = dataclasses.replace(generation, prompts=[data.task.ask(prompt) for prompt in generation.prompts])
    check_prompts(generation.prompts, found.tokenizer, positions)
    settings: dict[str, Any] = {"precision": args.precision}
    settings["interval_method"] = f"{LEVEL:.0%}, {RESAMPLES} bootstrap resamples, seed 0"
    settings["trained_on"] = _seen(found.path, data, args)
    if isinstance(data, TestRows):
        result = evaluate_rows(found, data, args, generation, set(given), settings)
    else:
        result = evaluate_text(found, data, args, generation, set(given), settings)
    if args.lm_eval and rank() == 0:
        result.lm_eval = run_harness(found, args.lm_eval, args.per_device_eval_batch_size)
    return result


def _seen(model: Path, data: Data, args: EvaluationArguments) -> list[str]:
    """Which files and folders of text or rows a model was trained on; of a dataset only its training split may be."""
    if isinstance(data, TestRows):
        return trained_on(model, [data.name])
    if isinstance(data, DataArguments):
        return trained_on(model, [source.path for source in data.sources()])
    places = [str(data.path), *training_sources(data.card)] if args.split == "train" else []
    return [str(data.path)] if trained_on(model, places) else []


def evaluate_harness(args: EvaluationArguments) -> dict[str, Any]:
    """What lm-eval alone finds on a model, written beside it and shown; ``--lm_eval`` without text or rows.

    Raises:
        LlmforgeError: As `evaluate_model`, and whatever keeps a task from running.
    """
    check_harness(args.lm_eval)
    if world_size() > 1:
        raise ConfigError("--lm_eval alone runs in one process.", "Start it without a launcher.")
    found = load_pretrained_model(str(args.model), args.base_model)
    tasks = run_harness(found, args.lm_eval, args.per_device_eval_batch_size)
    values = {"lm_eval": tasks, "model": str(found.path), "created": timestamp(), "versions": installed_versions()}
    _report(values, result_path(found.path, args.output, "lm-eval"), [], None if args.json else lambda: show_lm_eval(tasks))
    return values


def main(argv: Sequence[str] | None = None) -> Evaluation | Comparison | dict[str, Any]:
    """The command line of `llmforge evaluate`."""
    parser = ForgeParser(
        [EvaluationArguments, GenerationArguments],
        prog="llmforge evaluate",
        description="How well a model predicts a text or answers the rows of a task, or which of two does it better.",
    )
    parser.set_defaults(**_GENERATION)
    parsed = parser.parse(argv)
    args, generation = parsed.get(EvaluationArguments), parsed.get(GenerationArguments)
    given = parsed.given
    if given & {"temperature", "top_p", "top_k"} and "do_sample" not in given:  # which only sampling knows
        generation, given = dataclasses.replace(generation, do_sample=True), given | {"do_sample"}
    if args.compare and "strategies" not in given:
        generation = dataclasses.replace(generation, strategies=[])
    set_up_logging()
    if args.lm_eval and args.model is not None and not args.has_text:
        return evaluate_harness(args)
    with deferred_process_group():
        if args.compare:
            comparison = compare_models(args, generation, given)
            report_comparison(comparison, result_path(comparison.evaluations[0].model, args.output, "compare"), args.json)
            return comparison
        evaluation = evaluate_model(args, generation, given)
    report(evaluation, result_path(evaluation.model, args.output), args.json)
    return evaluation


def report(evaluation: Evaluation, path: Path, as_json: bool = False) -> None:
    """Show the figures and write them to `path`, the answers beside it, in the first process.

    Where they cannot be written they were seen at least.
    """
    if rank() == 0:
        show = None if as_json else lambda: show_evaluation(evaluation)
        _report(evaluation.as_json(), path, evaluation.lines, show, processes=world_size())
    rank_zero_first().clear()


def report_comparison(comparison: Comparison, path: Path, as_json: bool = False) -> None:
    """The same of a comparison."""
    if rank() == 0:
        show = None if as_json else lambda: show_comparison(comparison)
        _report(comparison.as_json(), path, comparison.lines(), show, processes=world_size())
    rank_zero_first().clear()


def _report(
    values: dict[str, Any], path: Path, lines: list[dict[str, Any]], show: Callable[[], None] | None, **more: Any
) -> None:
    answers = answers_path(path) if lines else None
    if show is None:
        print(json.dumps(values | {"output": str(path)} | ({"answers_output": str(answers)} if answers else {})), flush=True)
    else:
        show()
    write_json(path, values | more)
    if answers is not None:
        write_lines(answers, lines)
    if show is not None:
        logger.info("written to %s%s", path, f", the answers to {answers}" if answers else "")


if __name__ == "__main__":
    sys.exit(run_command(main))
