"""Packed documents kept apart without a mask, against the same documents run alone and against stock."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
import transformers
from helpers import TINY, TINY_DROPOUT, awkward_documents, forge_trainer, packed_rows, tiny_model, training_args
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from llmforge import attention
from llmforge.attention import BY_DOCUMENT, VARLEN, attend_by_document, choose_attention, install_attention
from llmforge.data.collate import PackedCollator
from llmforge.data.rows import BLANK
from llmforge.errors import ConfigError
from llmforge.models import build_config
from llmforge.segments import Segments, plan_calls

CPU = torch.device("cpu")
#: fp32 sums of a few dozen terms in another order.
ROUNDING = 2e-5


@pytest.fixture
def batch(tokenizer):
    """Documents of one token, longer than a row, just a row, and many short; rows that end in padding; a blank row."""
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    batch = PackedCollator()([*(rows[i] for i in range(len(rows))), rows[BLANK]])
    lengths = batch["segments"].lengths.tolist()
    assert {1, 2, 32} <= set(lengths)
    assert (batch["shift_labels"][-2] == -100).any()
    del batch["labels"]  # who gives them wants the loss alone
    return batch


def separate(model, batch):
    """Logits of each segment run alone through stock, row after row."""
    ids = batch["input_ids"].reshape(-1).split(batch["segments"].lengths.tolist())
    stock = type(model).forward
    return torch.cat([stock(model, piece[None], use_cache=False).logits[0] for piece in ids])


def with_way(model, way):
    """`model`, by document, by the mask, or by a variable-length kernel made up in plain torch."""
    return install_attention(model, {"mask": "sdpa", "segments": BY_DOCUMENT, "varlen": VARLEN}[way])


def plain_varlen(query, key, value, cumulative, longest, scale):
    """What `torch.nn.attention.varlen` computes, document by document and weight by weight."""
    ends = cumulative.tolist()
    outputs = []
    for start, end in itertools.pairwise(ends):
        q, k, v = (tokens[start:end].transpose(0, 1).float() for tokens in (query, key, value))
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(torch.ones(end - start, end - start).triu(1).bool(), -torch.inf)
        outputs.append((weights.softmax(-1) @ v).transpose(0, 1))
    assert end <= longest * len(ends)
    return torch.cat(outputs).to(query.dtype)


@pytest.mark.parametrize("way", ["segments", "mask"])
@pytest.mark.parametrize("training", [True, False])
def test_logits_equal_those_of_documents_alone(preset, way, training, tokenizer, batch):
    model = with_way(tiny_model(preset, tokenizer), way).train(training)
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits.flatten(0, 1), separate(model, batch), atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_documents_alone(preset, checkpointing, tokenizer, batch):
    model = tiny_model(preset, tokenizer).train()
    alone = copy.deepcopy(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    seed = torch.randn(batch["input_ids"].numel(), model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    (model(**batch).logits.flatten(0, 1) * seed).sum().backward()
    (separate(alone, batch) * seed).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=ROUNDING * float(theirs.grad.abs().max()), rtol=0), name


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"reorder_and_upcast_attn": True},
        {"rotary": 1.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_attention(changes, tokenizer, batch):
    """What stock makes of a variant with its mask, ours makes without."""
    preset = "neox-10m" if "rotary" in changes else "gpt2-10m"
    config = copy.deepcopy(tiny_model(preset, tokenizer).config)
    if "rotary" in changes:
        config.rope_parameters["partial_rotary_factor"] = changes["rotary"]
    else:
        config.update(changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        stock = with_way(model, "mask")(**batch, use_cache=False).logits
        ours = with_way(model, "segments")(**batch, use_cache=False).logits
    assert not torch.equal(stock, ours)  # two ways, indeed
    assert torch.allclose(stock, ours, atol=ROUNDING)


def test_no_mask_is_built_and_positions_are_not_looked_at(preset, tokenizer, batch, monkeypatch):
    """Both would wait for a GPU at every step. Stock does them."""

    def refused(*args, **kwargs):
        raise AssertionError("looked at")

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", refused)
    model = tiny_model(preset, tokenizer).train()
    model.activation_checkpointing_enable()
    model(**batch).logits.sum().backward()
    with pytest.raises(AssertionError, match="looked at"):
        with_way(model, "mask")(**batch)


def test_a_document_never_sees_another_under_dropout(preset, tokenizer):
    """The same random state and lengths, another document: every other document's logits stay, bit for bit."""
    model = tiny_model(preset, tokenizer, dropout=True).train()
    documents = awkward_documents(tokenizer)
    rows = packed_rows(documents, tokenizer)
    batch = PackedCollator()([rows[i] for i in range(len(rows))])
    del batch["labels"]
    lengths = batch["segments"].lengths
    starts = np.cumsum(lengths) - lengths
    logits, twin = [], {**batch, "input_ids": batch["input_ids"].clone()}
    changed = [int(np.flatnonzero(lengths == length)[0]) for length in (1, 2, 32)]
    for one in changed:
        twin["input_ids"].view(-1)[starts[one] : starts[one] + lengths[one]] = 9
    for given in (batch, twin):
        torch.manual_seed(1)
        logits.append(model(**given).logits.detach().flatten(0, 1).split(lengths.tolist()))
    same = [torch.equal(ours, theirs) for ours, theirs in zip(*logits, strict=True)]
    assert [number for number, equal in enumerate(same) if not equal] == sorted(changed)


def test_attention_dropout_is_applied_to_the_weights_and_keeps_the_mean():
    """Equal scores over 48 values of one: each output is the share of weights kept, over 1 - p."""
    segments = Segments(np.array([48, 80, 128]), (1, 256))
    query, value = torch.zeros(256, 4, 8), torch.ones(256, 4, 8, requires_grad=True)
    torch.manual_seed(0)
    first, second = (attend_by_document(query, query, value, segments.plan(CPU), 0.25, None) for _ in range(2))
    assert not torch.equal(first, second)
    # The first token has one weight: kept and scaled up, or dropped.
    assert {round(share, 4) for share in first[0].flatten().tolist()} <= {0.0, round(1 / 0.75, 4)}
    assert float(first[128:].detach().mean()) == pytest.approx(1, abs=0.02)
    first.sum().backward()
    assert float(value.grad.sum()) == pytest.approx(float(first.detach().sum()), rel=1e-5)
    still = attend_by_document(query, query, value, segments.plan(CPU), 0.0, None)
    assert torch.allclose(still, torch.ones_like(still))


@pytest.mark.parametrize("preset_dropout", [True, False])
def test_dropout_follows_the_config_and_the_mode(preset, preset_dropout, tokenizer, batch, monkeypatch):
    seen = set()

    def watched(*args):
        seen.add(args[4])
        return attend_by_document(*args)

    monkeypatch.setattr(attention, "attend_by_document", watched)
    model = tiny_model(preset, tokenizer, dropout=preset_dropout)
    model.train()(**batch)
    assert seen == {0.1 if preset_dropout else 0.0}
    seen.clear()
    model.eval()(**batch)
    assert seen == {0.0}


LENGTHS = [
    [32] * 4,
    [1] * 64,
    [100, 28, 128, 90, 30, 8],
    [1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 27],
    [64, 65, 64, 63],
    [1, 127, 1, 1, 126],
]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("short", [None, 64, 2])
def test_plans_hold_every_token_once_and_fill_little(lengths, short):
    lengths = np.array(lengths)
    calls, places, origins = plan_calls(lengths, short)
    held = sum(documents * length for documents, length in calls)
    assert sum(documents for documents, _ in calls) == len(lengths)
    if places is None:
        assert origins is None
        assert held == lengths.sum()
        return
    assert len(places) == held <= 1.5 * lengths.sum()
    assert places[origins].tolist() == list(range(int(lengths.sum())))
    # Each document lies at the start of its slot, in order.
    document = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    for documents, slots in zip(calls, places.split([d * n for d, n in calls]), strict=True):
        for slot in slots.view(*documents).numpy():
            number = document[slot[0]]
            assert (document[slot] == number).all()
            assert slot[: lengths[number]].tolist() == list(range(starts[number], starts[number] + lengths[number]))
            assert short is None or lengths[number] <= short or len(slots) == lengths[number]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("short", [None, 64, 2])
def test_every_plan_gives_the_outputs_and_gradients_of_a_mask(lengths, short):
    generator = torch.Generator().manual_seed(0)
    total, document = sum(lengths), torch.repeat_interleave(torch.tensor(lengths))
    mask = (document[:, None] == document) & torch.ones(total, total).tril().bool()
    drawn = [torch.randn(total, 2, 8, generator=generator) for _ in range(4)]
    ours, theirs = ([tokens.clone().requires_grad_() for tokens in drawn[:3]] for _ in range(2))
    output = attend_by_document(*ours, plan_calls(np.array(lengths), short), 0.0, 0.3)
    heads = [tokens.transpose(0, 1)[None] for tokens in theirs]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask, scale=0.3)[0].transpose(0, 1)
    assert torch.allclose(output, expected, atol=1e-5)
    output.backward(drawn[3])
    expected.backward(drawn[3])
    assert all(torch.allclose(mine.grad, yours.grad, atol=1e-5) for mine, yours in zip(ours, theirs, strict=True))


def test_without_segments_everything_is_stock(preset, tokenizer):
    """Plain calls, masks, packed positions, left padding, a cache: bit for bit."""
    ours = tiny_model(preset, tokenizer).eval()
    stock = AutoModelForCausalLM.from_config(copy.deepcopy(ours.config), attn_implementation="sdpa").eval()
    stock.load_state_dict(ours.state_dict())
    stock.generation_config = ours.generation_config
    assert ours.config._attn_implementation == BY_DOCUMENT
    ids = torch.arange(20, 44).view(2, 12)
    padded = torch.ones_like(ids)
    padded[0, :5] = 0
    calls = [{}, {"attention_mask": padded}, {"position_ids": torch.arange(12).remainder(5)[None], "use_cache": False}]
    for inputs in calls:
        assert torch.equal(ours(ids, **inputs).logits, stock(ids, **inputs).logits)
    for sampled in ({"do_sample": False}, {"do_sample": True, "top_k": 20}, {"num_beams": 2}):
        settings = {"attention_mask": padded, "max_new_tokens": 8, "pad_token_id": 1, "eos_token_id": None, **sampled}
        results = []
        for model in (ours, stock):
            torch.manual_seed(0)
            results.append(model.generate(ids, **settings))
        assert torch.equal(*results)


def test_segments_that_do_not_fit_the_call_are_left_out(preset, tokenizer, batch):
    """Other rows than the collator's, or a mask of the caller's: stock's own way, not another batch's documents."""
    model = tiny_model(preset, tokenizer).eval()
    inputs = {name: batch[name][:2] for name in ("input_ids", "position_ids")} | {"use_cache": False}
    with torch.no_grad():
        alone = with_way(model, "segments")(**inputs, segments=batch["segments"]).logits
        assert torch.equal(alone, model(**inputs).logits)
        expected = separate(model, batch)[: 2 * 32]
        assert torch.allclose(alone.flatten(0, 1), expected, atol=ROUNDING, rtol=ROUNDING)
        packed = {name: batch[name] for name in ("input_ids", "position_ids")} | {"use_cache": False}
        packed["attention_mask"] = torch.ones_like(batch["input_ids"])
        masked = model(**packed, segments=batch["segments"]).logits
        assert torch.equal(masked, model(**packed).logits)
        assert not torch.allclose(masked, model(**batch).logits, atol=0.1)


def test_nothing_of_it_is_saved(preset, tokenizer, tmp_path):
    model = tiny_model(preset, tokenizer).eval()
    model.save_pretrained(tmp_path)
    assert "llmforge" not in (tmp_path / "config.json").read_text()
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    ids = torch.tensor([[0, 20, 21, 22]])
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids), "eos_token_id": None}
    assert torch.equal(loaded.generate(ids, **settings), model.generate(ids, **settings))


def test_a_model_loaded_with_another_implementation_keeps_it(tokenizer, batch):
    config = tiny_model("gpt2-10m", tokenizer).config
    model = install_attention(AutoModelForCausalLM.from_config(config, attn_implementation="eager")).eval()
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
        assert torch.allclose(logits.flatten(0, 1), separate(model, batch), atol=ROUNDING, rtol=ROUNDING)


def test_installing_again_and_copying_change_nothing(preset, tokenizer, batch):
    model = tiny_model(preset, tokenizer).eval()
    install_attention(install_attention(model))
    assert len(model.base_model._forward_pre_hooks) == 1
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(**batch).logits, model(**batch).logits)


def test_plain_trainer_takes_our_batches(tokenizer, tmp_path):
    """`segments` says nothing to a stock model, and nothing on the way stumbles over it."""
    config = tiny_model("gpt2-10m", tokenizer).config
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    args = TrainingArguments(str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True)
    args.remove_unused_columns = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    trainer = Trainer(model, args, train_dataset=rows, data_collator=PackedCollator())
    assert trainer.train().training_loss > 1


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_trains_the_same_as_with_the_mask(preset, workers, tokenizer, tmp_path):
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    ended = {}
    for way in ("auto", "mask"):
        settings = {"packed_attention": way, "max_steps": 3, "per_device_train_batch_size": 4, "adam_epsilon": 1e-4}
        settings |= {"dataloader_num_workers": workers} if way == "auto" else {}
        model = tiny_model(preset, tokenizer)
        trainer = forge_trainer(model, tokenizer, tmp_path / way, rows, rows, **settings)
        assert model.config._attn_implementation == {"auto": BY_DOCUMENT, "mask": "sdpa"}[way]
        trainer.train()
        ended[way] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        ended[way] += [trainer.evaluate()[name] for name in ("eval_loss", "eval_bits_per_byte", "eval_tokens")]
    assert ended["auto"] == pytest.approx(ended["mask"], rel=1e-5)


def test_compiled_blocks_give_the_same_and_are_compiled_once(preset, tokenizer, batch):
    model = tiny_model(preset, tokenizer).eval()
    shorter = PackedCollator()([{"input_ids": np.arange(32), "segment_lengths": [9, 20], "segment_targets": [0, 0]}] * 2)
    other = PackedCollator()([{"input_ids": np.arange(32), "segment_lengths": [32], "segment_targets": [0]}] * 2)
    frames = []

    def backend(graph, inputs):
        frames.append(graph)
        return graph.forward

    compiled = copy.deepcopy(model)
    compiled.base_model.get_submodule("h.0" if preset == "gpt2-10m" else "layers.0").compile(backend=backend)
    with torch.no_grad():
        for given in (shorter, other):
            assert torch.allclose(compiled(**given).logits, model(**given).logits, atol=ROUNDING)
            frames.append(None)
    assert frames.index(None) > 0
    assert frames[-2:] == [None, None]  # other documents, nothing compiled


def test_segments_move_with_the_batch():
    from accelerate.utils import send_to_device

    segments = Segments(np.array([3, 5]), (1, 8))
    moved = send_to_device({"segments": segments}, torch.device("meta"))["segments"]
    assert moved.cumulative.device.type == "meta"
    assert (moved.lengths.tolist(), moved.shape) == ([3, 5], (1, 8))
    assert segments.cumulative.tolist() == [0, 3, 8]


def test_the_variable_length_kernel_gets_what_it_needs(preset, tokenizer, batch, monkeypatch):
    """The kernel itself needs a GPU; here one in plain torch stands for it, in bf16 as on a GPU."""
    calls = []

    def kernel(query, key, value, cumulative, longest, scale):
        calls.append((query.dtype, cumulative.dtype, longest, type(longest)))
        return plain_varlen(query, key, value, cumulative, longest, scale)

    monkeypatch.setattr(attention, "varlen_kernel", kernel)
    model, plain = (with_way(tiny_model(preset, tokenizer), way).eval() for way in ("varlen", "segments"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = model(**batch).logits
        assert set(calls) == {(torch.bfloat16, torch.int32, 32, int)}
        theirs = plain(**batch).logits
    assert float((ours - theirs).abs().max()) < 0.1 * float(theirs.abs().max())
    calls.clear()
    model(**batch)  # in fp32
    with torch.autocast("cpu", torch.bfloat16):
        with_way(tiny_model(preset, tokenizer, dropout=True), "varlen").train()(**batch)
    assert calls == []


def shape_of(preset, dropout=False):
    from llmforge.configs.model import ModelArguments

    return build_config(ModelArguments(preset=preset, **(TINY_DROPOUT if dropout else TINY)[preset]), 512)


def test_the_choice_on_a_cpu(preset, monkeypatch):
    """The GPU's kernel is never called on a CPU, not even to try it."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda *args: pytest.fail("called on a CPU"))
    for asked in ("auto", "segments"):
        way, line = choose_attention(asked, shape_of(preset), CPU, torch.float32)
        assert (way, line) == (BY_DOCUMENT, "documents isolated by causal attention per document (sdpa)")
    assert choose_attention("mask", shape_of(preset), CPU, torch.float32).way == "sdpa"
    with pytest.raises(ConfigError, match=r"^--packed_attention varlen cannot run here: it needs a CUDA GPU, and .* cpu\."):
        choose_attention("varlen", shape_of(preset), CPU, torch.float32)
    name = "attn_pdrop" if preset == "gpt2-10m" else "attention_dropout"
    with pytest.raises(ConfigError, match=f"no dropout, and --{name} is 0.1"):
        choose_attention("varlen", shape_of(preset, dropout=True), CPU, torch.float32)


@pytest.fixture
def made_up_gpu(monkeypatch):
    """A device of type cuda of the given capability, whose kernel is tried on the CPU."""
    attention._trial.cache_clear()

    def make(kernel, capability=(9, 0), hip=None):
        trial = attention._trial.__wrapped__
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Made up")
        monkeypatch.setattr(attention, "varlen_kernel", kernel)
        monkeypatch.setattr(attention, "_trial", lambda device, *shape: trial(CPU, *shape))
        return torch.device("cuda")

    return make


def leaking(query, key, value, cumulative, longest, scale):
    return plain_varlen(query, key, value, cumulative[[0, 1, *range(3, len(cumulative))]], longest, scale)


def failing(*args):
    raise RuntimeError("no kernel image is available\nfor execution")


@pytest.mark.parametrize(
    ("kernel", "dtype", "gpu", "reason"),
    [
        (plain_varlen, torch.bfloat16, {}, ""),
        (plain_varlen, torch.float32, {}, "needs bf16 or fp16, and float32 is computed in"),
        (plain_varlen, torch.float16, {"capability": (7, 5)}, "Made up has no flash attention"),
        (plain_varlen, torch.bfloat16, {"hip": "6.2"}, "needs a CUDA GPU, and the device is a ROCm GPU"),
        (leaking, torch.bfloat16, {}, "its kernel is off by"),
        (lambda q, k, v, *rest: plain_varlen(q, k, v, *rest[:2], 1.0), torch.float16, {}, "its kernel is off by"),
        (lambda q, k, v, *rest: plain_varlen(q, k, v.detach(), *rest), torch.bfloat16, {}, "its kernel fails"),
        (failing, torch.bfloat16, {}, r"its kernel fails \(RuntimeError: no kernel image is available\)"),
    ],
    ids=["right", "fp32", "old", "rocm", "leaks", "scale", "no gradient", "fails"],
)
def test_the_choice_on_a_gpu(kernel, dtype, gpu, reason, made_up_gpu):
    device, config = made_up_gpu(kernel, **gpu), shape_of("gpt2-10m")
    assert choose_attention("auto", config, device, dtype).way == (BY_DOCUMENT if reason else VARLEN)
    assert choose_attention("segments", config, device, dtype).way == BY_DOCUMENT
    if reason:
        with pytest.raises(ConfigError, match=reason):
            choose_attention("varlen", config, device, dtype)


def test_varlen_on_a_cpu_is_refused_by_the_trainer(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="--packed_attention varlen cannot run here"):
        forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, packed_attention="varlen")
    assert training_args(tmp_path).packed_attention == "auto"


def test_another_architecture_is_left_alone():
    config = transformers.LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert install_attention(model).config._attn_implementation == "sdpa"
