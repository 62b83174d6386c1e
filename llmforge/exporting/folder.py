"""A model as a folder that `from_pretrained` reads, and reading it back as a stranger would."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.errors import CheckFailed
from llmforge.pretrained.loading import Pretrained
from llmforge.storage.files import is_disk_full

if TYPE_CHECKING:
    import torch

#: ``--dtype`` → torch's name.
_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def write_folder(found: Pretrained, folder: Path, dtype: str, chat_template: str | None = None) -> None:
    """Write model and tokenizer, without the embedding rows that stand for no token.

    The model itself stays as it is; the tokenizer says how many tokens it was trained on at a time (``model_max_length``).

    Args:
        found: The model.
        folder: Is there and empty.
        dtype: Of its tensors.
        chat_template: That of the task which it was fine-tuned for.

    Raises:
        OSError: The disk could not take it.
    """
    import torch

    wanted: torch.dtype = getattr(torch, _TORCH[dtype])
    model = found.model
    known = max(found.tokenizer.get_vocab().values()) + 1
    state = {name: tensor.detach().to(wanted) for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        trimmed = type(model)(type(model.config).from_dict(model.config.to_dict() | {"vocab_size": known})).to(wanted)
    for name, parameter in trimmed.state_dict().items():
        state[name] = state[name][: parameter.shape[0]]
    if trimmed.config.tie_word_embeddings:
        state.pop(_head_name(trimmed), None)
    trimmed.config.dtype = wanted
    trimmed.generation_config = model.generation_config
    spared = [index for index in model.generation_config.suppress_tokens or [] if index < known]
    before = model.generation_config.suppress_tokens
    try:
        model.generation_config.suppress_tokens = spared or None
        trimmed.save_pretrained(folder, state_dict=state)
    except Exception as error:
        if is_disk_full(error) and not isinstance(error, OSError):  # safetensors says it in words of its own
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    finally:
        model.generation_config.suppress_tokens = before
    tokenizer = copy.deepcopy(found.tokenizer)
    tokenizer.model_max_length = found.context
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)


def _head_name(model: Any) -> str:
    return next(name for name, module in model.named_modules() if module is model.get_output_embeddings()) + ".weight"


class TransformersReader:
    """`AutoModelForCausalLM` and `AutoTokenizer` with an exported folder open.

    Raises:
        CheckFailed: They cannot open it.
    """

    name = "transformers"

    def __init__(self, folder: Path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True).eval()
        except Exception as error:  # whatever the libraries raise for files that they cannot take
            raise CheckFailed(f"transformers cannot open {folder}: {' '.join(str(error).split())[:200]}.") from error

    def tokenize(self, texts: Sequence[str], separator: int, special: bool) -> list[int]:
        """The ids of each text, each followed by `separator`."""
        ids = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=not special, verbose=False)["input_ids"]
        return [token for own in ids for token in (*own, separator)]

    def log_probabilities(self, prefix: Sequence[int], target: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities of all tokens, `target` first."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([list(prefix)]), use_cache=False, logits_to_keep=1).logits[0, -1]
        values = torch.log_softmax(logits.double(), -1).numpy()
        index = np.array([target, *(i for i in range(len(values)) if i != target)])
        return index, values[index]
