"""In what a resumed run differs from the interrupted one; each difference must be named to be accepted."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from llmforge.errors import ConfigError
from llmforge.runtime.logs import logger

#: Training arguments that change how the work is done, shown and kept, not what is learnt. How long a run is to be is
#: what one resumes it for. Some follow from others; precision and the rows of a step are compared as they come out.
_FREE = re.compile(
    r"output_dir|run_name|project|trackio_.*|logging_.*|log_.*|report_to|disable_tqdm|debug|save_.*|eval_.*|do_.*|hub_.*|push_to_hub"
    r"|max_steps|num_train_epochs|resume_from_checkpoint|restore_callback_states_from_checkpoint|load_best_model_at_end"
    r"|per_device_.*_batch_size|gradient_accumulation_steps|dataloader_.*|remove_unused_columns|include_.*|prediction_loss_only"
    r"|precision|bf16.*|fp16.*|tf32|half_precision_backend|use_cpu|local_rank|ddp_.*|fsdp.*|deepspeed|accelerator_config|parallelism_config"
    r"|torch_compile.*|torch_empty_cache_steps|packed_attention|lean_loss|activation_checkpointing.*|gradient_checkpointing.*"
    r"|skip_memory_metrics|lr_scheduler_kwargs|greater_is_better|use_cache|label_names"
)
#: Not to be accepted: the state in the checkpoint is of the other one.
_NEVER = ("optim",)
#: What besides training arguments and the model's settings may be named.
_OTHERS = ("data", "tokenizer", "precision", "per_device_train_batch_size")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What was and what is, by setting: of ``run.json``'s record against what `fingerprints` makes now.

    A setting that the record does not have, being of an older version, is no difference.
    """
    found = {}
    for name, value in now.items():
        if name in then and _plain(then[name]) != _plain(value):
            found[name] = (then[name], value)
    return found


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def training_settings(training: Mapping[str, Any]) -> dict[str, Any]:
    """Of `TrainingArguments.to_dict`, what decides what is learnt."""
    return {name: value for name, value in training.items() if not _FREE.fullmatch(name)}


def refuse_drift(where: str, found: Mapping[str, tuple[Any, Any]], accepted: Collection[str], known: Collection[str]) -> None:
    """Refuse differences that were not accepted by name, and tell those that were.

    Args:
        where: The run, as the user knows it.
        found: By setting, what it was and what it is.
        accepted: The names in ``--accept_changes``.
        known: Every name that could be there, to find what a misspelt one may mean.

    Raises:
        ConfigError: One line with all of the differences.
    """
    names = {*known, *_OTHERS}
    for name in accepted:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"--accept_changes {name}: no such setting.", f"Did you mean {close[0]}?" if close else "Leave it out."
            )
    refused = {name: pair for name, pair in found.items() if name not in accepted or name in _NEVER}
    for name, (then, now) in found.items():
        if name not in refused:
            logger.warning("accepted: %s is %s, was %s", name, now, then)
    never = {name: refused[name] for name in _NEVER if name in refused}
    if refused:
        told = "; ".join(_sentence(name, then, now) for name, (then, now) in (never or refused).items())
        remedy = f"Give the same, or --accept_changes {','.join(refused)} to go on all the same."
        raise ConfigError(
            f"{where} {told}.", next((f"Give --{name} {then}." for name, (then, _) in never.items()), remedy), "resume-refused"
        )


def _sentence(name: str, then: Any, now: Any) -> str:
    if name == "data":
        return f"was trained on other rows ({then}) than the ones given ({now})"
    if name == "tokenizer":
        return "was trained with another tokenizer"
    if name == "per_device_train_batch_size":
        return f"takes {then} rows a step, not {now}: rows would be repeated and left out"
    return f"has --{name} {_short(then)}, not {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}…"
