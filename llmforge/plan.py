"""llmforge plan --preset gpt2-124m --corpus DIR
llmforge plan --device_memory 12GiB --deadline 48h
llmforge plan --list_presets

What a pretraining takes before anything runs: memory of each process, tokens a second, time, disk. From the
flags and files of `llmforge pretrain`; without ``--preset``, every preset on the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmforge.models import PRESETS, Preset, get_preset
from llmforge.runtime.commands import CommandParser, run_command
from llmforge.runtime.logs import console, printable

if TYPE_CHECKING:
    from llmforge.configs.plan import PlanArguments
    from llmforge.configs.run import PretrainConfig
    from llmforge.planning.corpus import CorpusSize
    from llmforge.planning.outline import Plan
    from llmforge.planning.speed import Speed
    from llmforge.runtime.devices import Device


#: What is to be done with a corpus that is too small for any preset.
_SMALLER = "`llmforge pretrain --corpus DIR --deadline 30m --dry_run` chooses a model small enough for it, and shows it."


def preset_parameters(preset: Preset) -> int:
    """Parameters at the reference vocabulary, tied ones once.

    A block of width d has 12d² weights and 13d biases and layer-norm entries in both
    architectures; GPT-2 has learned positions and one embedding table, GPT-NeoX neither
    positions to learn nor shared tables. Checked against the models themselves in the tests.
    """
    d, block = preset.width, 12 * preset.width**2 + 13 * preset.width
    tables = preset.vocab_size + preset.positions if preset.family == "GPT-2" else 2 * preset.vocab_size
    return tables * d + preset.layers * block + 2 * d


def list_presets() -> list[dict[str, Any]]:
    """Every preset: name, family, layers, width, heads, positions, vocab_size, parameters."""
    return [{"preset": name, **vars(preset), "parameters": preset_parameters(preset)} for name, preset in PRESETS.items()]


def _show_presets(argv: Sequence[str]) -> None:
    """``--list_presets``, which imports nothing heavy."""
    parser = CommandParser(prog="llmforge plan", allow_abbrev=False)
    parser.add_argument("--list_presets", "--list-presets", action="store_true")
    parser.add_argument("--json", action="store_true")
    presets = list_presets()
    if parser.parse_args(argv).json:
        print(json.dumps({"presets": presets}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption="parameters at the reference vocabulary; a run prints its own count")
    for column in ("preset", "family", "layers", "width", "heads", "positions", "vocabulary", "parameters"):
        table.add_column(column, justify="left" if column in ("preset", "family") else "right")
    for row in presets:
        sizes = (row["layers"], row["width"], row["heads"], row["positions"], row["vocab_size"], row["parameters"])
        table.add_row(row["preset"], row["family"], *(f"{size:,}" for size in sizes))
    console().print(table)


def parse_plan(argv: Sequence[str] | None = None) -> tuple[PretrainConfig, PlanArguments, bool]:
    """The run to plan for, what it is planned for, and whether a preset was named.

    Raises:
        ConfigError: Flags or values that cannot be.
    """
    from llmforge.configs.checkpoint import CheckpointArguments
    from llmforge.configs.data import DataArguments
    from llmforge.configs.deadline import DeadlineArguments
    from llmforge.configs.generation import GenerationArguments
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.plan import PlanArguments
    from llmforge.configs.remote import RemoteArguments
    from llmforge.configs.run import PretrainConfig, RunArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.configs.training import ForgeTrainingArguments, deferred_process_group
    from llmforge.parsing import ForgeParser

    classes = [PlanArguments, DeadlineArguments, ModelArguments, TokenizerArguments, DataArguments, ForgeTrainingArguments]
    classes += [CheckpointArguments, RemoteArguments, GenerationArguments, RunArguments]
    parser = ForgeParser(classes, prog="llmforge plan", description="What a pretraining takes, before it runs.")
    with deferred_process_group():
        parsed = parser.parse(argv)
    config = PretrainConfig(
        training=parsed.get(ForgeTrainingArguments),
        model=parsed.get(ModelArguments),
        tokenizer=parsed.get(TokenizerArguments),
        data=parsed.get(DataArguments),
        run=parsed.get(RunArguments),
        checkpoint=parsed.get(CheckpointArguments),
        remote=parsed.get(RemoteArguments),
        deadline=parsed.get(DeadlineArguments),
    )
    return config, parsed.get(PlanArguments), "preset" in parsed.given or bool(parsed.get(ModelArguments).overrides())


def plan_device(config: PretrainConfig, asked: PlanArguments) -> tuple[Device, str]:
    """The device to plan for and the precision it trains in.

    Raises:
        ConfigError: A card that is not known, or a precision that it does not have.
    """
    from llmforge.runtime.devices import known_device, probe_device
    from llmforge.runtime.precision import choose_precision

    memory = asked.memory_bytes()
    device = known_device(asked.device, memory) if asked.device is not None else probe_device(config.training.use_cpu)
    device = replace(device, memory=memory or device.memory)
    return device, choose_precision(config.training.precision, None, device)


def make_plans(config: PretrainConfig, asked: PlanArguments, named: bool) -> dict[str, Any]:
    """Everything that `llmforge plan` tells, as objects: the device, the corpus, the presets, the plans of the chosen one.

    Raises:
        ConfigError: Nothing fits, or the processes do not divide ``--effective_batch_size``.
        DataError: The corpus is not there.
    """
    from llmforge.configs.model import ModelArguments
    from llmforge.planning.advice import fitting_preset, refuse_memory, refuse_tiny_corpus
    from llmforge.planning.corpus import corpus_size
    from llmforge.planning.outline import make_plan, rows_of_a_step
    from llmforge.planning.requirements import setup_for
    from llmforge.planning.speed import predict_speed

    device, precision = plan_device(config, asked)
    deadline = config.deadline.seconds()
    step_rows = rows_of_a_step(config.training, asked.effective_batch_size, asked.num_processes)
    sizes = {name: preset_parameters(preset) for name, preset in PRESETS.items()}

    def of(preset: str, model: ModelArguments, corpus: CorpusSize | None, **more: Any) -> Plan:
        vocabulary = corpus.vocabulary if corpus and corpus.vocabulary else config.tokenizer.vocab_size
        vocabulary = vocabulary or PRESETS[preset].vocab_size
        run = replace(config, model=model)
        setup = setup_for(run, vocabulary, device, precision, asked.num_processes)
        speed = more.pop("speed", None) or predict_speed(setup, device, precision)
        fixed = {
            "processes": asked.num_processes,
            "step_rows": step_rows,
            "corpus": corpus,
            "deadline": config.deadline.seconds(),
        }
        return make_plan(run, preset, vocabulary, device, precision, speed=speed, **fixed | more)

    corpus = corpus_size(config.data, config.tokenizer.vocab_size or get_preset(config.model.preset).vocab_size)
    if corpus is not None:
        config.data.block_size = corpus.block_size
    told: dict[str, Any] = {"device": device, "precision": precision, "corpus": corpus, "presets": []}
    if not named:
        plans = {name: of(name, ModelArguments(preset=name), corpus, fit_rows=True) for name in PRESETS}
        told["presets"] = [_preset_row(plan) for plan in plans.values()]
        fits = {name: sizes[name] for name, plan in plans.items() if plan.largest_rows}
        smallest = min(sizes, key=lambda name: sizes[name])
        if not fits:
            raise refuse_memory(
                smallest,
                plans[smallest].setup,
                step_rows // asked.num_processes,
                device.memory,
                _memory_flag(asked, device),
                None,
            )
        if corpus is not None:
            refuse_tiny_corpus(corpus.tokens, smallest, sizes[smallest], corpus.bytes_per_token, _SMALLER)
        if corpus is None and deadline is None:
            return told | {"plans": []}
        chosen = _choose(fits, plans, corpus, deadline, fitting_preset, smallest)
        config.model = ModelArguments(preset=chosen)
    preset = config.model.preset
    speed = _probe(config, PRESETS[preset].vocab_size, corpus) if asked.probe else None
    plan = of(preset, config.model, corpus, speed=speed, fit_rows=not named)
    ways = [(f"{asked.num_processes} processes, DDP" if asked.num_processes > 1 else "one process", plan)]
    if asked.num_processes > 1:
        name = "FSDP, AdamW" if plan.setup.optim == "muon" else "FSDP"  # a piece of a matrix is none for Muon
        ways.append((name, of(preset, config.model, corpus, speed=speed, fit_rows=not named, sharded=True)))
    if not any(way.largest_rows for _, way in ways):
        nearest = _nearest(of, ModelArguments, corpus, sizes)
        raise refuse_memory(
            preset, plan.setup, step_rows // asked.num_processes, device.memory, _memory_flag(asked, device), nearest
        )
    return told | {"plans": ways, "sizes": {name: size for name, size in sizes.items() if _family(name) == _family(preset)}}


def _family(preset: str) -> str:
    return PRESETS[preset].family


def _memory_flag(asked: PlanArguments, device: Device) -> str:
    return f"--device_memory {asked.device_memory}: the device" if asked.device_memory else device.name


def _nearest(of: Any, arguments: Any, corpus: CorpusSize | None, sizes: dict[str, int]) -> str | None:
    """The largest preset that fits."""
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if of(name, arguments(preset=name), corpus).largest_rows:
            return name
    return None


def _choose(
    fits: dict[str, int],
    plans: dict[str, Plan],
    corpus: CorpusSize | None,
    deadline: float | None,
    fitting: Any,
    smallest: str,
) -> str:
    """The largest preset that fits the device, that the corpus is enough for, and that the deadline leaves tokens for."""
    within = dict(fits)
    if corpus is not None:
        chosen = fitting(corpus.tokens, within)
        within = {name: size for name, size in within.items() if chosen and size <= fits[chosen]} or {smallest: fits[smallest]}
    if deadline is not None:  # 20 tokens a parameter in the time, else the smallest
        speeds = {name: plan.speed.tokens_per_second if plan.speed else 0.0 for name, plan in plans.items()}
        timely = {name: size for name, size in within.items() if speeds[name] * deadline >= 20 * size}
        within = timely or {min(within, key=lambda name: within[name]): 0}
    return max(within, key=lambda name: within[name])


def _preset_row(plan: Plan) -> dict[str, Any]:
    return {
        "preset": plan.preset,
        "parameters": plan.setup.shape.parameters,
        "peak": plan.memory.peak,
        "largest_micro_batch": plan.largest_rows,
        "tokens_per_second": plan.speed.tokens_per_second if plan.speed else None,
    }


def _probe(config: PretrainConfig, vocabulary: int, corpus: CorpusSize | None) -> Speed:
    from llmforge.speed_probe import probe_speed

    return probe_speed(config, (corpus.vocabulary if corpus else None) or config.tokenizer.vocab_size or vocabulary)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge plan`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--list_presets", "--list-presets"} & set(argv):
        return _show_presets(argv)
    config, asked, named = parse_plan(argv)
    told = make_plans(config, asked, named)
    device, corpus, ways = told["device"], told["corpus"], told["plans"]
    if asked.json:
        made = [{"layout": name, **plan.as_json()} for name, plan in ways]
        print(json.dumps({
            "device": vars(device),
            "precision": told["precision"],
            "corpus": corpus and vars(corpus),
            "presets": told["presets"],
            "plans": made,
        }))  # fmt: skip
        return None
    return _show(told, config.deadline.seconds())


def _show(told: dict[str, Any], deadline: float | None) -> None:
    from llmforge.planning.advice import corpus_line
    from llmforge.planning.table import memory_table, preset_table, run_table

    device, corpus, terminal = told["device"], told["corpus"], console()
    terminal.print(f"{device}, {told['precision']}", highlight=False)
    if told["presets"]:
        terminal.print(preset_table(told["presets"], device, deadline))
    if not told["plans"]:
        terminal.print("name one with --preset for its plan; --corpus and --deadline choose one", highlight=False)
        return
    plan = told["plans"][0][1]
    terminal.print(memory_table(told["plans"], device))
    terminal.print(run_table(plan, deadline))
    if corpus is not None:
        line = corpus_line(corpus.tokens, corpus.counted, plan.preset, plan.setup.shape.parameters, told["sizes"])
        terminal.print(printable(line), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
