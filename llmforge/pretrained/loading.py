"""A model with its tokenizer, from a folder: what evaluating, exporting and generating begin with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import CheckpointError, DataError
from llmforge.pretrained.adapters import find_base, merge_adapter
from llmforge.pretrained.folder import ADAPTER_CONFIG, find_folder, load_model, load_tokenizer, read_settings
from llmforge.runtime.run_folder import FINAL, RUN_RECORD
from llmforge.storage.records import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER = "tokenizer.json"
#: Rows that a model may have beyond its tokenizer; published ones have up to some four hundred for the kernels' sake.
_MOST_SPARE = 1024


@dataclass
class Pretrained:
    """A model with its tokenizer.

    Attributes:
        model: In fp32, on the CPU, ready for evaluation; adapters are merged.
        tokenizer: Fast and byte-level.
        path: The folder it is from.
        base: The folder of the base, where `path` is an adapter.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: Path
    base: Path | None = None

    @property
    def context(self) -> int:
        """Tokens it was trained to see at once, by the record of the run it is from, or by its tokenizer, else its positions.

        A model of 1,024 positions that was trained from scratch on rows of 256 knows nothing of the others. The rows of a
        fine-tuning are as long as its examples and take nothing from what the base knew: of those it is the base's context.
        """
        positions = int(self.model.config.max_position_embeddings)
        for folder in (self.path, self.base):
            if folder is not None:
                with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
                    record = read_json(folder.resolve().parent / RUN_RECORD)
                    if "finetune" in record["config"]:
                        return min(int(record.get("context", positions)), positions)
                    return min(int(record["config"]["data"]["block_size"]), positions)
        return min(int(self.tokenizer.model_max_length), positions)

    @property
    def spare_rows(self) -> int:
        """Rows of the embedding table that stand for no token."""
        return int(self.model.config.vocab_size - len(self.tokenizer))


def load_pretrained_model(given: str, base: str | None = None, flag: str = "--model") -> Pretrained:
    """The model in the folder `given`, or of that hub id.

    Args:
        given: A model folder, a run's folder (its ``final/`` is taken), an adapter's folder, or a hub id.
        base: The base of an adapter, where it does not lie where the adapter says.
        flag: What `given` was given by, for messages.

    Raises:
        CheckpointError: It cannot be used, with the reason: no weights or no tokenizer, another architecture, code of
            its own, a pickle that needs more than tensors, tensors that are missing, left over or not finite, a
            tokenizer of another model, an adapter of another base.
    """
    path = find_folder(given, flag)
    if not (path / ADAPTER_CONFIG).is_file():
        if base is not None:
            raise CheckpointError(f"{flag} {given} is no adapter, and a base is given for it.", "Leave the base out.")
        return _checked(Pretrained(load_model(path, flag), load_tokenizer(path, flag), path), flag)
    settings = read_settings(path / ADAPTER_CONFIG, flag)
    root = find_base(path, settings, base, flag)
    model = merge_adapter(load_model(root, flag), path, root, flag)
    own = path if (path / "tokenizer_config.json").is_file() else root
    return _checked(Pretrained(model, load_tokenizer(own, flag), path, root), flag)


def _checked(found: Pretrained, flag: str) -> Pretrained:
    """`found`, unless the tokenizer is not the model's: of another size, with another end of text, or not the one of the run."""
    config, tokenizer = found.model.config, found.tokenizer
    rows, largest = int(config.vocab_size), max(tokenizer.get_vocab().values())
    remedy = "Put the tokenizer that the model was trained with beside it."
    if largest >= rows or rows - largest - 1 > _MOST_SPARE:
        raise CheckpointError(
            f"{flag} {found.path}: the tokenizer has {largest + 1:,} entries, the model {rows:,} rows: not of one model.",
            remedy,
        )
    end = config.eos_token_id
    if isinstance(end, int) and end != tokenizer.eos_token_id:
        raise CheckpointError(
            f"{flag} {found.path}: the end of text is id {end} for the model and {tokenizer.eos_token_id} for the tokenizer.",
            remedy,
        )
    own, kept = found.path / _TOKENIZER, found.path.resolve().parent / "tokenizer" / _TOKENIZER
    if found.path.resolve().name == FINAL and own.is_file() and kept.is_file() and _entries(own) != _entries(kept):
        raise CheckpointError(f"{flag} {found.path}: its tokenizer is not the run's own, {kept.parent}.", remedy)
    return found


def _entries(path: Path) -> Any:
    """What a tokenizer makes of text: its vocabulary and merges. Two of one size are told apart by nothing else."""
    try:
        return read_json(path).get("model")
    except DataError:
        return None
