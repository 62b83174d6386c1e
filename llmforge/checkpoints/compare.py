"""How two checkpoints differ: in their settings, and layer by layer in their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.errors import CheckpointError

#: The number of a block in a tensor's name, in both architectures: ``transformer.h.3.attn…``, ``gpt_neox.layers.3.…``.
_BLOCK = re.compile(r"^(.*?\.(?:h|layers))\.(\d+)\.")


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as ``part.name`` → both values; None where one has no such setting."""
    left, right = _flat(first), _flat(second)
    return {name: (left.get(name), right.get(name)) for name in sorted({*left, *right}) if left.get(name) != right.get(name)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def weight_distances(first: Path, second: Path) -> dict[str, float]:
    """How far the weights moved between two checkpoints, by layer: the norm of the difference, as a share of the first's norm.

    Only safetensors are read, one tensor at a time.

    Raises:
        CheckpointError: One has no safetensors, they cannot be read, or the models have other tensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        left, right = _places(first), _places(second)
        moved: dict[str, float] = {}
        whole: dict[str, float] = {}
        other = sorted(left.keys() ^ right.keys())
        if other:
            raise CheckpointError(f"{first.name} and {second.name} are of different models: {len(other)} tensors differ in name.")
        for name, path in left.items():
            with safe_open(path, "pt") as a, safe_open(right[name], "pt") as b:
                before, after = a.get_tensor(name), b.get_tensor(name)
            if before.shape != after.shape:
                raise CheckpointError(f"{first.name} and {second.name} are of different models: {name} has another shape.")
            layer = _layer(name)
            moved[layer] = moved.get(layer, 0.0) + float((after.double() - before.double()).square().sum())
            whole[layer] = whole.get(layer, 0.0) + float(before.double().square().sum())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights of {first.name} and {second.name} cannot be read: {error}.") from error
    return {
        layer: (moved[layer] / whole[layer]) ** 0.5 if whole[layer] else moved[layer] ** 0.5
        for layer in sorted(moved, key=_order)
    }


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    from safetensors import safe_open

    files = sorted(path for path in folder.glob("*model*.safetensors") if path.is_file())
    if not files:
        raise CheckpointError(f"{folder} has no safetensors.", "Only those are compared; nothing else is safe to load.")
    places: dict[str, Path] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    return places


def _layer(name: str) -> str:
    match = _BLOCK.match(name)
    return f"{match[1]}.{match[2]}" if match else name.removesuffix(".weight").removesuffix(".bias")


def _order(layer: str) -> tuple[str | int, ...]:
    # Blocks by number, the rest by name, before them.
    head, _, number = layer.rpartition(".")
    return (1, head, int(number)) if number.isdigit() else (0, layer, 0)
