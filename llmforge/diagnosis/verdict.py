"""What comparisons of numbers say about a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmforge.diagnosis.findings import Finding

if TYPE_CHECKING:
    from llmforge.diagnosis.numerics import Comparison

_REMEDY = {
    "cpu": "Install another build of PyTorch; look at the machine's memory if that changes nothing.",
    "rocm": "See whether HSA_OVERRIDE_GFX_VERSION is right for the card, and the driver for this PyTorch; do not train on it.",
}
_OTHERS = "Install a build of PyTorch for this card and its driver; do not train on it."


def told_comparisons(name: str, kind: str, comparisons: Sequence[Comparison]) -> Finding:
    """One line: everything is right, or what is wrong and by how much.

    Args:
        name: Of the device.
        kind: As `Device.kind`.
        comparisons: All that were made on it.
    """
    simulated = kind != "cpu"
    wrong = [item for item in comparisons if not item.right]
    if wrong:
        told = ", ".join(f"{item.name} ({_by(item.error)})" for item in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        text = f"{name} computes wrongly: {told}{more}."
        return Finding("numerics", "failure", text, _REMEDY.get(kind, _OTHERS), "wrong-numbers", simulated)
    closest = max(item.error / item.allowed for item in comparisons)
    text = f"{len(comparisons)} comparisons with float64 are right, the worst at {closest:.1%} of what rounding may do"
    return Finding("numerics", "ok", text, simulated=simulated)


def _by(error: float) -> str:
    return f"off by {error:.2g} of its size" if math.isfinite(error) else "not finite"
