"""The loss and its sums on packed rows, against documents fed one by one."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from helpers import awkward_documents, forge_trainer, packed_rows, separate_sums, tiny_model
from tensor_watch import Tensors
from torch._dynamo.backends.debugging import aot_eager
from transformers import DataCollatorForLanguageModeling

from llmforge.data.collate import PackedCollator
from llmforge.losses import install_losses, row_sums
from llmforge.segments import Segments
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
        del batch["labels"]  # with them there is a loss and there are no logits
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


# --- the lean loss -----------------------------------------------------------------------------------

#: A gradient's distance from stock's over its own length, fp32 sums in another order. Seen: 6.5e-7.
GRADIENT_ROUNDING = 5e-6


def twins(preset, tokenizer, **changes):
    """The same model twice, in training mode: with the lean loss and with stock's."""
    model = tiny_model(preset, tokenizer, **changes).train()
    twin = copy.deepcopy(model)
    return install_losses(model, lean=True), install_losses(twin, lean=False)


def untied(model):
    """`model` with an output head of its own, GPT-2's is tied, or tied, GPT-NeoX's is not."""
    model.config.tie_word_embeddings = not model.config.tie_word_embeddings
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings().weight
    head.weight = embeddings if model.config.tie_word_embeddings else torch.nn.Parameter(head.weight.detach().clone() * 1.1)
    return model


def gradients(model, batch, seed=0, **changes):
    """Loss and the gradient of every parameter."""
    torch.manual_seed(seed)
    model.zero_grad()
    output = model(**batch, **changes)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def distance(ours, theirs):
    """The largest over all parameters; key biases have no gradient but rounding, and are measured by the whole model's."""
    whole = torch.stack([grad.norm() for grad in theirs.values()]).norm()
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - grad).norm() / max(grad.norm(), 1e-3 * whole)) for name, grad in theirs.items())


@pytest.mark.parametrize("other_head", [False, True])
@pytest.mark.parametrize("count", [None, 123, torch.tensor(123)])
def test_the_lean_loss_is_stocks_with_stocks_gradients(preset, other_head, count, tokenizer, batch):
    """With dropout, a document longer than a row, one of one token, and padding; tied heads and others."""
    assert (batch["shift_labels"] == -100).any()
    lean, stock = (untied(model) if other_head else model for model in twins(preset, tokenizer, dropout=True))
    (ours, our_grads), (theirs, their_grads) = (gradients(model, batch, num_items_in_batch=count) for model in (lean, stock))
    assert ours.logits is None
    assert theirs.logits is not None
    assert ours.loss.dtype == theirs.loss.dtype == torch.float32
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert distance(our_grads, their_grads) < GRADIENT_ROUNDING


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_in_half_precision_it_is_as_near_to_fp32_as_stock(preset, dtype, bound, tokenizer, batch):
    lean, stock = twins(preset, tokenizer)
    _, true = gradients(stock, batch, num_items_in_batch=1)
    with torch.autocast("cpu", dtype=dtype):
        (ours, our_grads), (theirs, their_grads) = (gradients(model, batch, num_items_in_batch=1) for model in (lean, stock))
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=bound)
    assert distance(our_grads, true) < 1.2 * distance(their_grads, true)
    head = lean.get_output_embeddings().weight
    name = next(name for name, parameter in lean.named_parameters() if parameter is head)
    assert float((our_grads[name] - true[name]).norm() / true[name].norm()) < 10 * bound


def test_a_model_in_half_precision_itself_trains_too(preset, tokenizer, batch):
    lean, stock = (model.to(torch.bfloat16) for model in twins(preset, tokenizer))
    (ours, our_grads), (_, their_grads) = (gradients(model, batch, num_items_in_batch=100) for model in (lean, stock))
    assert ours.loss.dtype == torch.float32
    assert {grad.dtype for grad in our_grads.values()} == {torch.bfloat16}
    assert distance(our_grads, their_grads) < 0.05


def test_logits_of_a_training_step_never_exist(preset, tokenizer, batch):
    """Nor does anything else of their size; the tokenizer's 400 are over twelve times the width."""
    lean, stock = twins(preset, tokenizer)
    lengths, (count, length) = np.tile(batch["segments"].lengths, 4), batch["segments"].shape
    batch = {name: torch.cat([tensor] * 4) for name, tensor in batch.items() if name != "segments"}
    batch["segments"] = Segments(lengths, (4 * count, length))
    logits = batch["input_ids"].numel() * lean.config.vocab_size
    assert batch["input_ids"].numel() > 512
    for model, expected in ((lean, False), (stock, True)):
        with Tensors() as seen:
            model(**batch).loss.backward()
        assert (seen.largest >= logits) is expected


def test_a_blank_micro_batch_adds_nothing(preset, tokenizer, batch):
    """It fills up the last step of an epoch; 0 targets of the step's 50 are 0, and not 0 / 0."""
    lean, _ = twins(preset, tokenizer)
    blank = batch | {name: torch.full_like(batch[name], -100) for name in ("labels", "shift_labels")}
    output, grads = gradients(lean, blank, num_items_in_batch=torch.tensor(50))
    assert output.loss.item() == 0
    assert not any(grad.any() for grad in grads.values())


def test_micro_batches_add_up_to_the_whole(preset, tokenizer, batch):
    lean, _ = twins(preset, tokenizer)
    count = (batch["shift_labels"] != -100).sum()
    whole, expected = gradients(lean, batch, num_items_in_batch=count)
    lean.zero_grad()
    rows = range(len(batch["input_ids"]))
    tensors = {name: tensor for name, tensor in batch.items() if name != "segments"}  # the positions say the same
    losses = [lean(**{name: tensor[row : row + 1] for name, tensor in tensors.items()}, num_items_in_batch=count) for row in rows]
    sum(output.loss for output in losses).backward()
    assert sum(output.loss.item() for output in losses) == pytest.approx(whole.loss.item(), rel=1e-6)
    assert distance({name: parameter.grad for name, parameter in lean.named_parameters()}, expected) < GRADIENT_ROUNDING


def test_activation_checkpointing_does_not_change_a_bit(preset, tokenizer, batch):
    lean, _ = twins(preset, tokenizer, dropout=True)
    _, expected = gradients(lean, batch)
    lean.activation_checkpointing_enable()
    _, grads = gradients(lean, batch)
    assert all(torch.equal(grad, expected[name]) for name, grad in grads.items())


@pytest.mark.parametrize("preset", ["gpt2-10m", pytest.param("neox-10m", marks=pytest.mark.slow)], indirect=True)
def test_a_compiled_model_has_the_lean_loss_too(preset, tokenizer, batch):
    """One block, because compilation takes seconds; the loss is outside the compiled part, the model inside."""
    lean, _ = twins(preset, tokenizer)
    blocks = next(module for module in lean.base_model.children() if isinstance(module, torch.nn.ModuleList))
    del blocks[1:]
    expected_output, expected = gradients(lean, batch, num_items_in_batch=torch.tensor(100))
    lean.zero_grad()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.print_readable(print_output=False))
        return aot_eager(graph, inputs)

    torch.compiler.reset()
    output = torch.compile(lean, backend=backend)(**batch, num_items_in_batch=torch.tensor(100))
    output.loss.backward()
    torch.compiler.reset()
    assert output.logits is None
    assert any("layer_norm" in graph for graph in graphs)
    assert not any("log_softmax" in graph for graph in graphs)
    assert output.loss.item() == pytest.approx(expected_output.loss.item(), rel=1e-6)
    assert distance({name: parameter.grad for name, parameter in lean.named_parameters()}, expected) < GRADIENT_ROUNDING


class OwnLinear(torch.nn.Linear):
    """Stands for a quantized or otherwise changed layer."""


def _biased(model):
    model.lm_head.bias = torch.nn.Parameter(torch.ones(model.config.vocab_size))


def _hooked(model):
    model.lm_head.register_forward_hook(lambda module, inputs, output: 2 * output)


def _patched(model):
    model.lm_head.forward = lambda hidden: 2 * torch.nn.functional.linear(hidden, model.lm_head.weight)


def _wrapped(model):
    model.lm_head = torch.nn.Sequential(model.lm_head)


def _changed(model):
    model.lm_head.__class__ = OwnLinear


def _subclassed(model):
    stock = type(model)

    class Own(stock):
        def forward(self, *args, **kwargs):
            return stock.forward(self, *args, **kwargs)

    model.__class__ = Own


def _another_loss(model):
    model.loss_function = lambda logits, labels, **kwargs: logits.sum()


@pytest.mark.parametrize("change", [_biased, _hooked, _patched, _wrapped, _changed, _subclassed, _another_loss])
def test_a_head_or_loss_that_is_not_plain_keeps_the_stock_path(preset, change, tokenizer, batch):
    lean, stock = twins(preset, tokenizer)
    for model in (lean, stock):
        change(model)
    ours, theirs = lean(**batch), stock(**batch)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)


def test_a_head_that_is_not_plain_is_said_at_once(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    model = tiny_model("gpt2-10m", tokenizer)
    install_losses(model)
    assert not caplog.records
    _hooked(model)
    install_losses(model, lean=False)
    assert not caplog.records
    install_losses(model)
    assert "stock loss" in caplog.text


@pytest.mark.parametrize("asked", [{"logits_to_keep": 3}, {"return_dict": False}, {"labels": None}])
def test_who_asks_for_more_than_the_loss_gets_what_stock_gives(preset, asked, tokenizer, batch):
    """Without labels, too: so Trainer calls when it smooths labels, or has a loss function of the user's."""
    lean, stock = twins(preset, tokenizer)
    shift = {"shift_labels": batch["shift_labels"][:, -3:].contiguous()} if "logits_to_keep" in asked else {}
    ours, theirs = (model(**batch | asked | shift) for model in (lean, stock))
    assert type(ours) is type(theirs)
    assert torch.equal(ours[0], theirs[0])
    if "labels" not in asked:
        assert torch.equal(ours[1], theirs[1])


def test_evaluation_mode_and_switching_it_off_give_logits(preset, tokenizer, batch):
    lean, _ = twins(preset, tokenizer)
    assert lean.lean_loss
    assert lean(**batch).logits is None
    assert lean.eval()(**batch).logits is not None
    lean.train().lean_loss = False
    assert lean(**batch).logits is not None
    assert install_losses(lean)(**batch).logits is None


def test_hidden_states_and_attentions_are_served(preset, tokenizer, batch):
    lean, stock = twins(preset, tokenizer)
    for model in (lean, stock):
        model.set_attn_implementation("eager")
    ours, theirs = (model(**batch, output_hidden_states=True, output_attentions=True) for model in (lean, stock))
    assert ours.logits is None
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name]) >= 2
        assert all(torch.equal(one, other) for one, other in zip(ours[name], theirs[name], strict=True))


def test_a_frozen_head_gets_no_gradient_and_what_is_trained_gets_stocks(preset, tokenizer, batch):
    """As with LoRA, whose adapters are inside the blocks."""
    found = []
    for model in twins(preset, tokenizer):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("attn.c_attn" in name or "query_key_value" in name)
        weight = model.get_output_embeddings().weight
        with Tensors() as seen:
            output = model(**batch)
        output.loss.backward()
        made = [call for call in seen.calls if call.shape == weight.shape and call.name in ("zeros_like", "mm", "addmm_")]
        grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        found.append((output.logits is None, weight.grad, made, grads))
    (lean, grad, made, ours), (stock_lean, _, _, theirs) = found
    assert (lean, stock_lean) == (True, False)
    assert grad is None
    assert made == []
    assert len(ours) == 4
    assert distance(ours, theirs) < GRADIENT_ROUNDING


def test_trainer_trains_the_same_model_with_and_without_it(preset, tokenizer, documents, tmp_path):
    """Five steps of three micro-batches, the last with a blank one. AdamW's epsilon as in test_same_training.py."""
    rows = packed_rows(documents, tokenizer)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 5, "learning_rate": 1e-2}
    ended = {}
    for lean in (True, False):
        model = tiny_model(preset, tokenizer)
        trainer = forge_trainer(model, tokenizer, tmp_path, rows, lean_loss=lean, adam_epsilon=1e-4, **settings)
        assert model.lean_loss is lean
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        ended[lean] = losses, model.state_dict()
    assert ended[True][0] == pytest.approx(ended[False][0], rel=2e-6)
    assert ended[True][0][-1] < ended[True][0][0] - 0.3
    for name, weight in ended[True][1].items():
        assert torch.allclose(weight, ended[False][1][name], rtol=0, atol=2e-6), name


def test_label_smoothing_and_a_loss_of_the_users_own_get_logits(tokenizer, documents, tmp_path):
    """Trainer makes those losses itself, out of logits."""
    rows = packed_rows(documents, tokenizer)
    losses = []
    for lean in (True, False):
        model = tiny_model("gpt2-10m", tokenizer)
        trainer = forge_trainer(model, tokenizer, tmp_path, rows, lean_loss=lean, label_smoothing_factor=0.1, max_steps=1)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == losses[1] > 0
    seen = []

    def own(outputs, labels, num_items_in_batch=None):
        seen.append(outputs.logits.shape)
        return outputs.logits.square().mean()

    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, rows, max_steps=1)
    trainer.compute_loss_func = own
    trainer.train()
    assert len(seen) == 1
