"""What the processes of a training have to agree on while a checkpoint is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llmforge.errors import ConfigError, LlmforgeError, StorageError
from llmforge.storage.files import is_disk_full


def agree(args: Any, value: int) -> int:
    """The largest value that any process has; each waits here for the others."""
    if args.world_size <= 1:
        return value
    tensor = torch.tensor(value, device=args.device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return int(tensor)


def outcome(failure: Exception | None) -> int:
    """0 where it went well, 1 where the disk failed, which may work again at the next checkpoint, 2 for anything else."""
    if failure is None:
        return 0
    return 1 if isinstance(failure, (OSError, StorageError)) or is_disk_full(failure) else 2


def together(args: Any, work: Callable[[], Any]) -> tuple[bool, Exception | None]:
    """Do `work` in every process.

    Returns:
        Whether it went well in all of them, as far as storage goes, and what went wrong in this one.

    Raises:
        Exception: What else `work` raised, here; in the other processes `LlmforgeError`.
    """
    failure: Exception | None = None
    try:
        work()
    except Exception as error:
        failure = error
    worst = agree(args, outcome(failure))
    if worst == 2:
        raise failure if failure is not None and outcome(failure) == 2 else relayed("a checkpoint was saved")
    return worst == 0, failure


def relayed(what: str) -> LlmforgeError:
    """The error of a process that only hears of another one's, which tells it."""
    error = LlmforgeError(f"Another process failed while {what}.")
    error.relayed = True
    return error


def refuse_several_folders(trainer: Any) -> None:
    """Refuse a launch whose checkpoints would not be one folder in the stock format.

    Raises:
        ConfigError: FSDP of its first version or with a sharded state, or every machine saving for itself.
    """
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ConfigError(
            f"FSDP with fsdp_state_dict_type {str(plugin.state_dict_type).rpartition('.')[2]}: a sharded state is in a format of "
            "its own that starts with a pickle, and neither from_pretrained nor plain Trainer reads it.",
            "Set fsdp_state_dict_type: FULL_STATE_DICT in the accelerate config.",
        )
    if plugin is not None and plugin.fsdp_version != 2:
        raise ConfigError(
            f"FSDP of version {plugin.fsdp_version}: it melts parameters into one, whose parts no checkpoint names.",
            "Set fsdp_version: 2 in the accelerate config.",
        )
    if trainer.args.save_on_each_node:
        raise ConfigError("--save_on_each_node: a checkpoint is one folder.", "Leave it out, with --output_dir on a shared disk.")
