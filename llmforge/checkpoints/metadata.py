"""What ``metadata.json`` of a checkpoint says, for people and for ``llmforge checkpoints``: all of it plain JSON.

Nothing that a resumed run needs is read from it.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from llmforge.runtime.devices import probe_device
from llmforge.runtime.run_folder import redact, timestamp
from llmforge.runtime.versions import installed_versions

#: Points of a history that are kept, evenly thinned.
MOST_POINTS = 1000
#: The trend is told from the last so many logged losses, at least this many.
_WINDOW, _FEWEST = 40, 8


def describe_checkpoint(state: Any, args: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metadata.json``.

    - ``loss``: the last one logged; ``best_loss``, ``best_step``: the lowest validation loss so far and its step, of a
      run without evaluations the lowest training loss; ``steps_since_best``
    - ``trend`` of the training loss: ``falling``, ``flat`` or ``rising``, None after a few log events only
    - ``files_seen``: documents trained on so far, by the share of the first epoch; None where their number is unknown
    - ``loss_history``, ``learning_rate_history``: pairs of step and value, at most `MOST_POINTS`
    - ``validation``: of the last evaluation

    Args:
        state: A `TrainerState`.
        args: `TrainingArguments`.
        record: ``run.json``; may be empty.
    """
    history = state.log_history
    losses, rates, evaluations = (_points(history, name) for name in ("loss", "learning_rate", "eval_loss"))
    judged = [point for point in evaluations or losses if math.isfinite(point[1])]
    best_step, best = min(judged, key=lambda point: point[1], default=(None, None))
    last: Mapping[str, Any] = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
    documents = record.get("data", {}).get("splits", {}).get("train", {}).get("documents")
    return {
        "timestamp": timestamp(),
        "step": state.global_step,
        "epoch": state.epoch,
        "tokens_seen": state.num_input_tokens_seen,
        "files_seen": None if documents is None else round(documents * min(state.epoch or 0.0, 1.0)),
        "loss": losses[-1][1] if losses else None,
        "best_loss": best,
        "best_step": best_step,
        "steps_since_best": None if best_step is None else state.global_step - best_step,
        "trend": trend([value for _, value in losses]),
        "loss_history": thinned(losses),
        "learning_rate_history": thinned(rates),
        "validation": {name: value for name, value in last.items() if name.startswith("eval_")},
        "config": record.get("config") or {"training": redact(args.to_dict())},
        "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "system": _system(args.use_cpu) | {"processes": args.world_size},
    }


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(entry["step"]), float(entry[name])) for entry in history if name in entry]


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most `most` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def trend(losses: Sequence[float]) -> str | None:
    """Where a loss is going: the newer half of its last values against the older half, in terms of their scatter.

    Returns:
        ``falling``, ``flat`` or ``rising``; None where there are too few.
    """
    window = [loss for loss in losses[-_WINDOW:] if math.isfinite(loss)]
    if len(window) < _FEWEST:
        return None
    older, newer = window[: len(window) // 2], window[len(window) // 2 :]
    change = statistics.fmean(newer) - statistics.fmean(older)
    # Of a difference of two means, twice its standard error.
    noise = 2 * math.sqrt(statistics.variance(older) / len(older) + statistics.variance(newer) / len(newer))
    return "flat" if abs(change) <= noise else "falling" if change < 0 else "rising"


@functools.cache
def _system(use_cpu: bool) -> dict[str, Any]:
    versions = installed_versions()
    return {
        "python": platform.python_version(),
        "torch": versions.get("torch"),
        "transformers": versions.get("transformers"),
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "device": str(probe_device(use_cpu)),
    }
