"""Who decides the precision: the launcher if it was told one, else `--precision`, else the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.errors import ConfigError
from llmforge.runtime.devices import Device, probe_device
from llmforge.runtime.launch import launcher_precision

if TYPE_CHECKING:
    from llmforge.configs.training import ForgeTrainingArguments


def choose_precision(requested: str, launcher: str | None, device: Device) -> str:
    """The precision to train in: ``fp32``, ``bf16`` or ``fp16``.

    Args:
        requested: ``--precision``: auto, fp32, bf16 or fp16.
        launcher: What the launcher was told, None if nothing.
        device: The device to train on.

    Raises:
        ConfigError: The launcher and ``--precision`` contradict each other, or a CPU
            would have to emulate half precision.
    """
    if launcher not in (None, "fp32", "bf16", "fp16"):
        raise ConfigError(f"The launcher's mixed precision is {launcher}.", "Give its config bf16, fp16 or no.")
    if launcher and requested != "auto" and requested != launcher:
        raise ConfigError(
            f"--precision {requested} contradicts the launcher's mixed precision, {launcher}.",
            "Give one of the two; the launcher's is enough.",
        )
    chosen = launcher or (requested if requested != "auto" else device.half or "fp32")
    if device.kind == "cpu" and requested == "auto" and not launcher:
        return "fp32"
    if device.kind == "cpu" and (chosen == "fp16" or (chosen == "bf16" and device.half != "bf16")):
        raise ConfigError(
            f"{chosen} on this CPU ({device.name}) would be emulated, some 150 times slower than fp32.",
            "Use --precision fp32, and a launcher config without mixed_precision.",
        )
    if chosen == "bf16" and device.half != "bf16":
        raise ConfigError(f"{device.name} has no native bf16.", f"Use --precision {device.half or 'fp32'}.")
    return chosen


def apply_precision(args: ForgeTrainingArguments) -> str:
    """Choose the precision and write it into `args`, where Trainer and accelerate look for it.

    Raises:
        ConfigError: As `choose_precision`.
    """
    device = probe_device(args.use_cpu)
    chosen = choose_precision(args.precision, launcher_precision(), device)
    args.fp16, args.bf16 = chosen == "fp16", chosen == "bf16"
    args.mixed_precision = "no" if chosen == "fp32" else chosen
    if chosen == "bf16" and device.kind == "cuda" and args.tf32 is None:
        # What autocast leaves in fp32 is in good company; fp32 that was asked for stays fp32.
        import torch

        # Not by transformers' `enable_tf32`: what it sets makes torch's older getters raise, which its compiler calls.
        torch.set_float32_matmul_precision("high")
        args.tf32 = True
    return chosen
