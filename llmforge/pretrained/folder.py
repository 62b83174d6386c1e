"""A model folder, looked at before it is trusted: nothing in it is run, and what does not fit is told in one line.

GPT-2 and GPT-NeoX folders are taken as `save_pretrained` writes them: ``final/`` of a run, a checkpoint, a download.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoints.manifest import is_committed, verify
from llmforge.errors import CheckpointError
from llmforge.tokenization import from_pretrained_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: ``model_type`` → the class that is built from it.
FAMILIES = {"gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM"}
ADAPTER_CONFIG = "adapter_config.json"
#: What a download takes: no pickles, no code.
_WANTED = ("*.json", "*.safetensors", "merges.txt")
#: Causal masks, which transformers saved with a GPT-2 until 4.30; it ignores only the first kind by itself.
_MASK = re.compile(r"\.attn\.(masked_)?bias$")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_folder(given: str, flag: str = "--model") -> Path:
    """The folder that `given` means, without reading its weights; a hub id is downloaded.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        for folder in (path, path / "final"):
            if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
                return folder
        raise CheckpointError(
            f"{flag} {given} holds no model: there is no config.json.", "Give a folder such as runs/NAME/final or a checkpoint."
        )
    if path.exists():
        raise CheckpointError(f"{flag} {given} is a file.", "Give the folder that it lies in.")
    if not _HUB_ID.fullmatch(given):
        raise CheckpointError(f"{flag} {given}: no such folder.", "Give a folder such as runs/NAME/final or a checkpoint.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(given, allow_patterns=list(_WANTED)))
    except Exception as error:  # a long list of kinds: offline, unknown, gated, rate limits
        if path.parent.is_dir() and len(path.parts) > 1:  # a mistyped path far rather than an id
            raise CheckpointError(f"{flag} {given}: no such folder.", "Give a folder such as runs/NAME/final.") from error
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise CheckpointError(
            f"{flag} {given} is neither a folder nor a hub id that can be reached: {reason}.", "Check the name, or go online."
        ) from error


def read_settings(path: Path, flag: str) -> dict[str, Any]:
    """A JSON file of a model folder.

    Raises:
        CheckpointError: It cannot be read, or wants code of its own to be run.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{flag} {path.parent}: {path.name} cannot be read: {error}.", "Give a whole model.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{flag} {path.parent}: {path.name} is no JSON object.", "Give a whole model.")
    if "auto_map" in values:
        raise CheckpointError(
            f"{flag} {path.parent}: {path.name} has an auto_map, which asks for Python code of its own to be run.",
            "It is never run: take a model that transformers knows by itself.",
        )
    return values


@contextmanager
def refusing(path: Path, flag: str, remedy: str) -> Iterator[None]:
    """Turn what the libraries raise for files that they cannot take into one line.

    Raises:
        CheckpointError: Instead.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        if type(error).__name__ == "UnpicklingError":
            reason, remedy = (
                "its weights are a pickle that needs more than tensors",
                "Only tensors are read: have it as safetensors.",
            )
        else:
            reason = " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
        raise CheckpointError(f"{flag} {path} cannot be loaded: {reason}.", remedy) from error


def load_model(path: Path, flag: str) -> PreTrainedModel:
    """The model in `path`, in fp32 on the CPU.

    Raises:
        CheckpointError: It cannot be used, or a file of a committed checkpoint is not as it was committed.
    """
    config = read_settings(path / "config.json", flag)
    if is_committed(path) and (problems := verify(path)):
        raise CheckpointError(f"{flag} {path} is damaged: {problems[0].rstrip('.')}.", "Take another checkpoint.")
    kind = str(config.get("model_type"))
    named = config.get("architectures") or [FAMILIES.get(kind)]
    if kind not in FAMILIES or named[0] not in (FAMILIES[kind], FAMILIES[kind].replace("LMHead", ""), "GPTNeoXModel"):
        what = kind if kind not in FAMILIES else named[0]
        raise CheckpointError(f"{flag} {path} is of another architecture: {what}.", f"Known: {', '.join(FAMILIES.values())}.")
    if config.get("quantization_config"):
        raise CheckpointError(f"{flag} {path} is quantized.", "Give the model before quantization.")
    if not any(any(path.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin")):
        raise CheckpointError(f"{flag} {path} has no weights: no model.safetensors.", "Give a whole model.")
    import torch
    import transformers

    with refusing(path, flag, "Give a whole model; a damaged file has to be copied or made again."), _quiet():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            local_files_only=True,
        )
    for reason, names in (
        ("lacks", "missing_keys"),
        ("has another shape of", "mismatched_keys"),
        ("does not know", "unexpected_keys"),
    ):
        found = sorted(str(name[0] if isinstance(name, (tuple, list)) else name) for name in info[names])
        found = [name for name in found if not _MASK.search(name)]
        if found:
            raise CheckpointError(
                f"{flag} {path}: the model {reason} {found[0]}" + (f" and {len(found) - 1} more." if len(found) > 1 else "."),
                "config.json and the weights have to be of one model.",
            )
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{flag} {path}: {name} is not finite.", "Take an earlier checkpoint.")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without the table of what did not fit, which is told in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(path: Path, flag: str) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`; where it has no start of text, that is the end of text.

    Raises:
        CheckpointError: There is none, or it is not a fast byte-level one with an end of text.
    """
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{flag} {path} has no tokenizer: no tokenizer.json.", "Put the model's tokenizer files beside it.")
    for name in ("tokenizer_config.json", "config.json"):
        if (path / name).is_file():
            read_settings(path / name, flag)
    from transformers import AutoTokenizer

    with refusing(path, flag, "Put the model's own tokenizer files beside it."), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
        from_pretrained_tokenizer(tokenizer).byte_lengths()
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{flag} {path}: the tokenizer has no end-of-text token.", "Set its eos_token.")
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer
