"""YAML files of settings: found, and read with safe types only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llmforge.errors import ConfigError


def find_config(name: str, folder: Path | None) -> Path:
    """The YAML file behind ``--config``: a path, or a bare name in the recipe's own folder.

    Raises:
        ConfigError: There is no such file; the known names are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    if folder is not None and (folder / f"{name}.yaml").is_file():
        return folder / f"{name}.yaml"
    known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml"))) if folder is not None else ""
    raise ConfigError(f"--config {name}: no such file.", f"Known names: {known}." if known else "Give the path of a YAML file.")


class _StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key given twice and aliases, which can blow up."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, with safe types only.

    Raises:
        ConfigError: Not readable, no mapping, a key twice, a tag or an alias.
    """
    try:
        # yaml.load with a subclass of SafeLoader is safe_load with two refusals more.
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}.", "Mend the file.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not keys and values.", "Write `key: value` lines.")
    return values
