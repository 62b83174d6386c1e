"""Models in folders."""

from __future__ import annotations

import pytest
from helpers import tiny_model


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Saves a tiny model with its tokenizer, and returns the folder and the model."""

    def save(preset: str = "gpt2-10m", folder: str = "model", seed: int = 0):
        model = tiny_model(preset, tokenizer, seed=seed)
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
        return tmp_path / folder, model.eval()

    return save
