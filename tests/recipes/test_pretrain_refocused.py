"""Token-id shards: what its configs promise, and that the sample is what its page says.

The whole journey, from a bucket and back, is tests/remote/test_recipe.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ROOT, recipe_config

from llmforge.tokenization import load_pretrained

SAMPLE = ROOT / "recipes" / "samples" / "refocused"
SHARDS = ("--corpus", str(SAMPLE / "shards"), "--tokenizer", str(SAMPLE / "tokenizer"))


def test_the_sample_is_the_go_files():
    tokenizer = load_pretrained(SAMPLE / "tokenizer")
    texts = set()
    for path in sorted((SAMPLE / "shards").glob("*.npz")):
        ids = np.load(path, allow_pickle=False)["input_ids"]
        assert ids[0] == tokenizer.eos_token_id
        texts |= {
            tokenizer.decode(part[1:]) for part in np.split(ids, np.flatnonzero(ids == tokenizer.eos_token_id)) if len(part)
        }
    files = sorted((ROOT / "recipes" / "samples" / "go").rglob("*.go"))
    assert texts == {path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize(
    ("name", "steps", "batch", "save", "log", "files"), [("test", 100, 1, 50, 10, 5), ("production", 10_000, 4, 500, 100, None)]
)
def test_configs_are_what_they_promise(name, steps, batch, save, log, files):
    config = recipe_config("pretrain_refocused", name, *SHARDS)
    training, model = config.training, config.model
    assert (model.preset, config.data.block_size, config.data.format) == ("neox-1.2b", 2048, "npz")
    assert (training.max_steps, training.per_device_train_batch_size) == (steps, batch)
    assert (training.save_steps, training.logging_steps) == (save, log)
    assert config.data.max_files == files
    assert training.optim == "adamw_torch_fused"
    assert config.remote.background_upload
