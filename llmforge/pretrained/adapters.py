"""LoRA adapters as peft writes them: which base they are of, and merged into it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoints.manifest import is_committed, verify
from llmforge.errors import CheckpointError
from llmforge.pretrained.folder import find_folder, read_settings, refusing
from llmforge.runtime.logs import logger
from llmforge.storage.records import json_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"
#: Beside an adapter: a hash of the weights it was trained on (`base_record`).
BASE_RECORD = "base.json"
#: A whole embedding table or head that is saved with an adapter, as peft names it; not the adapter of one.
_TABLE = re.compile(r"\b(wte|embed_in|embed_out|lm_head)\.((base_layer|modules_to_save(\.default)?)\.)?weight$")


def weights_digest(folder: Path) -> str:
    """A hash of the weight files in `folder`, by which a base is known again wherever it lies."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def base_record(base: Path) -> str:
    """What `BASE_RECORD` holds beside an adapter of `base`; `load_pretrained_model` refuses another base."""
    return json_text({"path": str(base), "weights": weights_digest(base)})


def save_adapter(model: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Write the adapters of a `PeftModel` the way peft does, without a model card of peft's own.

    Args:
        model: With adapters.
        folder: Made if it is not there.
        state: Tensors in place of the model's own.
    """
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def find_base(path: Path, settings: dict[str, Any], given: str | None, flag: str) -> Path:
    """The folder of the base that the adapter in `path` was trained on.

    Args:
        settings: Its ``adapter_config.json``.
        given: The base that the user names; else the one that the settings name, also as seen from the adapter's folder.

    Raises:
        CheckpointError: There is none, it is another one than the adapter's, the adapter is none of LoRA, or a file of a
            committed checkpoint is not as it was committed.
    """
    if is_committed(path) and (problems := verify(path)):
        raise CheckpointError(f"{flag} {path} is damaged: {problems[0].rstrip('.')}.", "Take another checkpoint.")
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{flag} {path} is a {settings.get('peft_type')} adapter.", "Only LoRA adapters are merged.")
    if not (path / _WEIGHTS).is_file():
        raise CheckpointError(f"{flag} {path} has no {_WEIGHTS}.", "Give a whole adapter, saved as safetensors.")
    named = given or str(settings.get("base_model_name_or_path") or "")
    beside = path / named
    if given is None and named and beside.is_dir() and not Path(named).is_dir():
        named = str(beside)
    if not named:
        raise CheckpointError(f"{flag} {path}: the adapter does not say what its base is.", "Give --base_model.")
    try:
        root = find_folder(named, "--base_model")
    except CheckpointError as error:
        raise CheckpointError(f"{flag} {path} is an adapter of {named}: {error.problem}", "Give --base_model.") from error
    if not (root / "config.json").is_file():
        raise CheckpointError(f"{flag} {path} is an adapter of {root}, which is an adapter itself.", "Merge that one first.")
    record = path / BASE_RECORD
    if record.is_file() and read_settings(record, flag).get("weights") != weights_digest(root):
        raise CheckpointError(
            f"{flag} {path}: the adapter was trained on other weights than those in {root}.",
            "Give --base_model with its own base.",
        )
    return root


def merge_adapter(model: PreTrainedModel, path: Path, root: Path, flag: str) -> PreTrainedModel:
    """`model` with the adapter in `path` merged into it.

    Raises:
        CheckpointError: It does not fit.
    """
    import torch
    from peft import PeftModel
    from safetensors import safe_open

    remedy = f"It belongs to another base than {root}: give --base_model with its own."
    with refusing(path, flag, remedy):
        with safe_open(path / _WEIGHTS, "pt") as file:
            wanted = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            for name in wanted:
                if not torch.isfinite(file.get_tensor(name)).all():
                    raise CheckpointError(f"{flag} {path}: {name} is not finite.", "Take an earlier one.")
        table = next((shape[0] for name, shape in wanted.items() if _TABLE.search(name)), None)
        if table is not None and table != model.config.vocab_size:  # tokens were added, and the table saved with the adapter
            model.resize_token_embeddings(table, mean_resizing=False)
        joined = PeftModel.from_pretrained(model, str(path), local_files_only=True)
        known = {name.replace(".default", "") for name in joined.state_dict()}
        strange = sorted(
            name for name in wanted if name not in known and not any(name.rpartition(".")[0] in own for own in known)
        )
        if strange:
            raise CheckpointError(f"{flag} {path}: the base has no place for {strange[0]}.", remedy)
        merged = joined.merge_and_unload()
    logger.info("adapter %s merged into %s", path, root)
    return merged.eval()
