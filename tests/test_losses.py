"""The loss and its sums on packed rows, against documents fed one by one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import awkward_documents, packed_rows, separate_sums, tiny_model
from transformers import DataCollatorForLanguageModeling

from llmforge.data.collate import PackedCollator
from llmforge.losses import install_losses, row_sums
from llmforge.tokenization import from_pretrained_tokenizer


@pytest.fixture
def documents(tokenizer):
    return awkward_documents(tokenizer)


@pytest.fixture
def batch(documents, tokenizer):
    rows = packed_rows(documents, tokenizer)
    return PackedCollator()([rows[i] for i in range(len(rows))])


def token_bytes(model, tokenizer):
    lengths = torch.from_numpy(from_pretrained_tokenizer(tokenizer).byte_lengths())
    return torch.nn.functional.pad(lengths, (0, model.config.vocab_size - len(lengths)))


@pytest.mark.parametrize("dropout", [False, True])
def test_sums_over_packed_rows_equal_documents_fed_alone(preset, dropout, tokenizer, documents, batch):
    model = tiny_model(preset, tokenizer, dropout=dropout).eval()
    with torch.no_grad():
        sums = model(**batch, token_bytes=token_bytes(model, tokenizer))["row_sums"].sum(0)
    assert sums.tolist() == pytest.approx(separate_sums(model, documents, tokenizer), rel=1e-5)
    assert sums[1] == sum(len(document) + 1 for document in documents)


def test_sums_are_the_same_in_chunks_of_any_size(preset, tokenizer, batch, monkeypatch):
    model = tiny_model(preset, tokenizer).eval()
    results = []
    for chunk in (1, 7, 1024):
        monkeypatch.setattr("llmforge.losses._CHUNK", chunk)
        with torch.no_grad():
            results.append(model(**batch, token_bytes=token_bytes(model, tokenizer))["row_sums"])
    assert torch.allclose(results[0], results[2], rtol=1e-6)
    assert torch.allclose(results[1], results[2], rtol=1e-6)


def test_training_loss_is_the_mean_over_true_targets(preset, tokenizer, documents, batch):
    model = tiny_model(preset, tokenizer)
    nll, tokens, *_ = separate_sums(model, documents, tokenizer)
    with torch.no_grad():
        loss = model(**batch, num_items_in_batch=torch.tensor(tokens)).loss
    assert float(loss) == pytest.approx(nll / tokens, rel=1e-5)


def test_a_document_never_sees_its_neighbours_in_training_mode(preset, tokenizer):
    """With dropout: the same random state, another first document, and the second one's logits stay."""
    model = tiny_model(preset, tokenizer, dropout=True).train()
    logits = []
    for first in (np.full(9, 5, np.uint16), np.full(9, 77, np.uint16)):
        rows = packed_rows([first, np.arange(20, 40, dtype=np.uint16)], tokenizer)
        assert len(rows) == 1
        batch = PackedCollator()([rows[0]])
        start = int(rows[0]["segment_lengths"][0])
        assert start == 21  # best fit places the longer document first
        torch.manual_seed(1)
        logits.append(model(**batch).logits[0])
    assert torch.equal(logits[0][:21], logits[1][:21])
    assert not torch.equal(logits[0][21:31], logits[1][21:31])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_packed_rows_equal_those_of_separate_documents(preset, checkpointing, tokenizer, documents, batch):
    """The bound is that of fp32 sums in another order."""
    model = tiny_model(preset, tokenizer).train()
    alone = copy.deepcopy(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    model(**batch, num_items_in_batch=torch.tensor(1.0)).loss.backward()
    for document in documents:
        ids = [tokenizer.eos_token_id, *(int(token) for token in document), tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, 32):
            given = torch.tensor([ids[start : min(start + 32, len(ids) - 1)]])
            goals = torch.tensor(ids[start + 1 : start + 1 + given.shape[1]])
            logits = type(alone).forward(alone, given).logits[0]
            torch.nn.functional.cross_entropy(logits, goals, reduction="sum").backward()
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        scale = theirs.grad.abs().max()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5 * float(scale) + 1e-6), name


def test_trap_any_attention_mask_switches_the_isolation_off(preset, tokenizer):
    """Stock behaviour, and why our collator makes no mask."""
    model = tiny_model(preset, tokenizer).eval()
    rows = packed_rows([np.arange(20, 40, dtype=np.uint16), np.arange(50, 59, dtype=np.uint16)], tokenizer)
    batch = PackedCollator()([rows[0]])
    alone = type(model).forward(model, torch.tensor([[tokenizer.eos_token_id, *range(50, 59)]])).logits[0]
    with torch.no_grad():
        isolated = model(**batch).logits[0, 21:31]
        masked = model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).logits[0, 21:31]
    assert torch.allclose(isolated, alone, atol=1e-4)
    assert not torch.allclose(masked, alone, atol=1e-1)
    stock = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [5, 6, 7]}])
    assert "attention_mask" in stock
    assert "attention_mask" not in batch


def test_trap_the_cache_switches_the_isolation_off(preset, tokenizer):
    """use_cache is a config default; ours is off whenever rows are packed, even where the config says on."""
    model = tiny_model(preset, tokenizer).eval()
    model.config.use_cache = True
    rows = packed_rows([np.arange(20, 40, dtype=np.uint16), np.arange(50, 59, dtype=np.uint16)], tokenizer)
    batch = PackedCollator()([rows[0]])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        alone = type(model).forward(model, torch.tensor([[tokenizer.eos_token_id, *range(50, 59)]])).logits[0]
        stock = type(model).forward(model, **inputs).logits[0, 21:31]
        ours = model(**batch).logits[0, 21:31]
        sums = model(**batch, token_bytes=token_bytes(model, tokenizer))["row_sums"]
    assert not torch.allclose(stock, alone, atol=1e-1)
    assert torch.allclose(ours, alone, atol=1e-4)
    expected = separate_sums(model, [np.arange(20, 40), np.arange(50, 59)], tokenizer)
    assert sums.sum(0).tolist() == pytest.approx(expected, rel=1e-5)


def test_trap_pad_as_end_of_text_would_lose_the_end_of_text(tokenizer):
    """Stock masks every label that equals pad; ours keeps the end of text as a target and masks padding alone."""
    stock_tokenizer = copy.deepcopy(tokenizer)
    stock_tokenizer.pad_token = stock_tokenizer.eos_token
    stock = DataCollatorForLanguageModeling(stock_tokenizer, mlm=False)([{"input_ids": [5, 6, stock_tokenizer.eos_token_id]}])
    assert stock["labels"].tolist() == [[5, 6, -100]]
    rows = packed_rows([np.array([5, 6], np.uint16)], tokenizer, block_size=5)
    ours = PackedCollator()([rows[0]])
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert ours["input_ids"].tolist() == [[0, 5, 6, 1, 1]]
    assert ours["shift_labels"].tolist() == [[5, 6, 0, -100, -100]]


def test_targets_at_row_ends_and_of_cut_pieces_count(tokenizer):
    """A document of two rows and a half: the last token of each full row predicts the first of the next."""
    rows = packed_rows([np.arange(10, 19, dtype=np.uint16)], tokenizer, block_size=4)
    batch = PackedCollator()([rows[i] for i in range(len(rows))])
    assert batch["input_ids"].tolist() == [[0, 10, 11, 12], [13, 14, 15, 16], [17, 18, 1, 1]]
    assert batch["shift_labels"].tolist() == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 0, -100, -100]]


def test_row_sums_of_nothing_are_zero(tokenizer):
    head = torch.nn.Linear(4, 8, bias=False)
    sums = row_sums(torch.zeros(2, 3, 4), head, torch.full((2, 3), -100), torch.ones(8, dtype=torch.int64))
    assert sums.tolist() == [[0.0] * 5] * 2


def test_installing_twice_changes_nothing_and_the_class_stays_stock(preset, tokenizer):
    model = tiny_model(preset, tokenizer)
    once = model.forward
    assert install_losses(model).forward == once
    assert type(model).forward.__module__.startswith("transformers.models")


def test_a_copied_model_uses_its_own_weights(preset, tokenizer, batch):
    model = tiny_model(preset, tokenizer).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert float(twin(**batch).loss) == pytest.approx(np.log(twin.config.vocab_size), rel=1e-5)
        assert float(model(**batch).loss) != pytest.approx(np.log(twin.config.vocab_size), rel=1e-2)


def test_generation_is_stock(preset, tokenizer):
    model = tiny_model(preset, tokenizer).eval()
    given = torch.tensor([[0, 20, 21, 22]])
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(given), "eos_token_id": None}
    ours = model.generate(given, **settings)
    del model.forward
    assert torch.equal(ours, model.generate(given, **settings))
