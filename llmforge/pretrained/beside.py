"""What has to lie beside a fine-tuned model wherever it is saved, in a checkpoint as in ``final/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.storage.records import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME = "llmforge_beside"


@dataclass(frozen=True)
class Beside:
    """Files beside a model: its task, the record of an adapter's base, a tokenizer that is not the one of the rows.

    Attributes:
        files: Text by name.
        tokenizer: Saved with the model in place of the one that the rows were made with, which has padding: adapters leave
            the base's embeddings alone, and so the tokenizer stays the base's.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None

    def attach(self, model: Any) -> None:
        """Let `model` carry this along."""
        setattr(model, _NAME, self)

    def write(self, folder: Path) -> None:
        """Write the files into `folder`.

        Raises:
            StorageError: They cannot be written.
        """
        for name, text in self.files.items():
            write_text(folder / name, text)


def beside_of(model: Any) -> Beside:
    """What `model` carries along; nothing, if nothing was attached to it."""
    return vars(model).get(_NAME, Beside())
