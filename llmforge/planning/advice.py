"""What the figures mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmforge.configs.units import format_count
from llmforge.errors import ConfigError
from llmforge.planning.memory import Setup, estimate
from llmforge.runtime.devices import format_bytes

#: Tokens a parameter from which a corpus is rich for a model (Hoffmann et al. 2022, "Training compute-optimal large language
#: models", about 20), from which four epochs come to that (Muennighoff et al. 2023, "Scaling data-constrained language
#: models": four are nearly as good as new text), and below which the model has room for the text itself.
RICH, ENOUGH, MEMORISES = 20.0, 5.0, 1.0
#: Below this even the smallest preset only learns its corpus by heart.
LEAST = 0.1


def fitting_preset(tokens: int, sizes: Mapping[str, int]) -> str | None:
    """The largest of some presets that a corpus has at least a token a parameter for; None where it has for none.

    Args:
        tokens: To train on.
        sizes: Preset → its parameters.
    """
    fits = {name: size for name, size in sizes.items() if tokens >= MEMORISES * size}
    return max(fits, key=lambda name: fits[name]) if fits else None


def corpus_line(tokens: int, counted: bool, name: str, parameters: int, sizes: Mapping[str, int]) -> str:
    """What a corpus is for a model, plainly.

    Args:
        tokens: To train on.
        counted: Whether they were counted.
        name: Of the model's preset.
        parameters: Of the model.
        sizes: Presets of the same family → their parameters.
    """
    about = "" if counted else "about "
    head = f"your corpus has {about}{format_count(tokens)} tokens, {tokens / parameters:.2g} for each of {name}'s parameters: "
    fitting = fitting_preset(tokens, sizes)
    other = f"{fitting} fits it" if fitting and fitting != name else "no preset is small enough for it" if fitting is None else ""
    if tokens < MEMORISES * parameters:
        return f"{head}{format_count(parameters)} parameters will memorise it{'; ' + other if other else ''}"
    if tokens < ENOUGH * parameters:
        return f"{head}a few epochs are well spent, more will memorise it"
    if tokens < RICH * parameters:
        return f"{head}enough, up to four epochs are nearly as good as new text"
    larger = f"; {other}, if the time is there" if other else ""
    return f"{head}plenty{larger}"


def refuse_tiny_corpus(tokens: int, smallest: str, parameters: int, each: float, way: str = "") -> None:
    """Refuse to choose a preset for a corpus that is too small for any.

    Args:
        tokens: To train on.
        smallest: The smallest preset.
        parameters: Its size.
        each: Bytes of a token.
        way: What does with so little text, as a sentence; by default other text and other models.

    Raises:
        ConfigError: It is; how much text would do is said.
    """
    if tokens < LEAST * parameters:
        wanted = f"about {parameters * each / 1e6:,.1f} MB of text"
        raise ConfigError(
            f"The corpus has {format_count(tokens)} tokens, too few for any preset: {smallest}, the smallest, has "
            f"{format_count(parameters)} parameters and would learn it by heart.",
            way or f"Give {wanted}, name a --preset with fewer layers yourself, or fine-tune a model that is there.",
        )


def what_to_give_up(setup: Setup, step_rows: int, memory: int) -> str | None:
    """The least that would make a model fit of which not even one row does; None where nothing does.

    Args:
        setup: Of the training.
        step_rows: Rows that one process contributes to an optimizer step.
        memory: Bytes of the device.
    """
    one = setup.with_rows(1, step_rows)
    spared = replace(one, batch=replace(one.batch, checkpointed=1))
    ways = {"--activation_checkpointing": spared}
    if setup.batch.gpu:
        ways["--activation_checkpointing --optim adamw_8bit"] = replace(spared, optim="adamw_8bit")
    for length in (setup.batch.length // 2, setup.batch.length // 4):
        shorter = replace(spared, batch=replace(spared.batch, length=max(length, 1)))
        ways[f"--activation_checkpointing --block_size {length}"] = shorter
    ways[f"--effective_batch_size {setup.processes}, which learns less a step"] = setup.with_rows(1, 1)
    return next((flags for flags, way in ways.items() if estimate(way).peak <= memory), None)


def refuse_memory(name: str, setup: Setup, step_rows: int, memory: int, device: str, nearest: str | None) -> ConfigError:
    """The error for a model of which not even one row fits: what it takes, what fits instead, what to give up.

    Args:
        name: Of its preset.
        setup: Of the training.
        step_rows: Rows that one process contributes to an optimizer step.
        memory: Bytes of the device.
        device: Its name, or the flag that named the memory.
        nearest: The largest preset that fits, if one does.
    """
    need, way = estimate(setup.with_rows(1, step_rows)).peak, what_to_give_up(setup, step_rows, memory)
    remedies = [f"The largest preset that fits is {nearest}." if nearest else "No preset fits."]
    if way:
        remedies.append(f"{name} fits with {way}.")
    elif nearest and 6 * setup.shape.parameters < memory:
        remedies.append(f"{name} itself can be fine-tuned: llmforge finetune --lora.")
    elif not nearest:
        remedies.append("Give more memory, or a --preset with fewer layers.")
    return ConfigError(
        f"{device} has {format_bytes(memory)}, and {name} takes {format_bytes(need)} with one row of {setup.batch.length:,} "
        "tokens at a time.",
        " ".join(remedies),
    )
