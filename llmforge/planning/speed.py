"""How many tokens a second, from the operations that a token takes."""

from __future__ import annotations

from dataclasses import dataclass

from llmforge.planning.memory import Setup
from llmforge.planning.shapes import Shape
from llmforge.runtime.devices import Device, matrix_flops, peak_flops

#: The share of its peak that a device is assumed to reach: of the table's for a GPU, a common figure for models of this size;
#: of one large matrix product for a CPU. Neither was measured: `--probe` measures.
GPU_SHARE, CPU_SHARE = 0.35, 0.6


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all processes together.

    Attributes:
        tokens_per_second: Padding included.
        source: Where the figure is from, as a clause for people.
        measured: Whether it was measured on the model itself.
    """

    tokens_per_second: float
    source: str
    measured: bool = False


def flops_per_token(shape: Shape, length: int, checkpointed: bool = False) -> float:
    """Operations for one token of a row, forward and backward; as `llmforge.models.flops_per_token` counts them in a model.

    Args:
        shape: The model.
        length: Of the row.
        checkpointed: Whether the forward pass of the blocks is done twice.
    """
    blocks = 6.0 * shape.matrices + 12.0 * shape.layers * shape.width * length
    return blocks * (4 / 3 if checkpointed else 1) + 6.0 * shape.table


def predict_speed(setup: Setup, device: Device, precision: str) -> Speed | None:
    """Speed by the device table, or on a CPU by the speed of a matrix product here; None for a device that neither knows.

    Args:
        setup: The training.
        device: To train on.
        precision: What matrices are multiplied in.
    """
    batch = setup.batch
    need = flops_per_token(setup.shape, batch.length, bool(batch.checkpointed))
    several = f", {setup.processes} processes, what they say to each other apart" if setup.processes > 1 else ""
    if device.kind == "cpu":
        peak = matrix_flops(precision)
        told = f"{CPU_SHARE:.0%} of the {peak / 1e9:.0f} GFLOP/s of a matrix product here"
        return Speed(CPU_SHARE * peak / need, told + (several and ", which all of them share"))
    peak_known = peak_flops(precision, device.name)
    if peak_known is None:
        return None
    told = f"{GPU_SHARE:.0%}, an assumption, of the {peak_known / 1e12:.0f} TFLOP/s of {device.name} in {precision}"
    return Speed(setup.processes * GPU_SHARE * peak_known / need, told + several)
