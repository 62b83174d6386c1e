"""Muon by itself: what it makes of matrices, of fused ones, and of what is left to AdamW."""

from __future__ import annotations

import io
import math

import pytest
import torch

from llmforge import muon
from llmforge.muon import Muon, newton_schulz


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def set_gradients(parameters, step: int, scale: float = 1.0) -> None:
    for number, item in enumerate(parameters):
        source = torch.Generator().manual_seed(1000 * step + number)
        item.grad = scale * torch.randn(item.shape, generator=source)


def train(optimizer, parameters, steps: int = 3, first: int = 0) -> None:
    for step in range(first, first + steps):
        set_gradients(parameters, step)
        optimizer.step()


# --- Newton-Schulz ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 24, 24), (2, 3, 8, 12)])
@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.float32, 0.65, 1.25), (torch.bfloat16, 0.6, 1.3)])
def test_singular_values_come_near_one_and_directions_stay(shape, dtype, low, high):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # A spread of 1 to 30 in the singular values, as gradients have it and more.
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    given = left @ torch.diag_embed(torch.logspace(0, -1.5, values.shape[-1]).expand_as(values)) @ right
    made = newton_schulz(given, dtype=dtype).float()
    assert made.shape == given.shape
    found = torch.linalg.svdvals(made)
    assert low < float(found.min())
    assert float(found.max()) < high
    # The same singular vectors: what it does is diagonal in them.
    inside = left.mT @ made @ right.mT
    off = inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) < (1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_size_of_a_gradient_does_not_matter(scale):
    given = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(newton_schulz(scale * given), newton_schulz(given), atol=1e-4)


def test_a_zero_matrix_stays_zero_and_leaves_its_neighbours_alone():
    given = torch.randn(3, 8, 12)
    given[1] = 0
    made = newton_schulz(given)
    assert not made[1].any()
    assert torch.allclose(made[2], newton_schulz(given[2]), atol=1e-5)


# --- one step on matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_torchs_muon(shape, dtype):
    """Which multiplies in bfloat16: the bound is the rounding of that."""
    ours, theirs = parameter(*shape), parameter(*shape)
    settings = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.9}
    train(Muon([ours], dtype=dtype, **settings), [ours], steps=5)
    train(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), [theirs], steps=5)
    moved = float((theirs - parameter(*shape)).detach().abs().max())
    assert moved > 0.05
    assert float((ours - theirs).detach().abs().max()) < 0.03 * moved


def test_the_update_is_as_large_as_adamws():
    """Root mean square of 0.2 times the learning rate, whatever the shape (Liu et al. 2025), and times a singular value."""
    for shape in ((64, 64), (32, 128), (128, 32)):
        item = parameter(*shape)
        before = item.detach().clone()
        set_gradients([item], 0)
        Muon([item], lr=1.0, weight_decay=0.0).step()
        assert float((item.detach() - before).square().mean().sqrt()) == pytest.approx(0.2 * 0.85, rel=0.08)


def test_weight_decay_is_decoupled_and_scaled_by_the_groups_own_rate():
    item = parameter(8, 8)
    before = item.detach().clone()
    item.grad = torch.zeros(8, 8)
    Muon([{"params": [item], "lr": 0.5, "weight_decay": 0.2}], lr=7.0, weight_decay=7.0).step()
    assert torch.allclose(item, before * (1 - 0.5 * 0.2))


@pytest.mark.parametrize("chunk", [1, 400, 1 << 24])
def test_together_or_one_by_one_is_the_same(chunk, monkeypatch):
    """Shapes that are turned, groups with rates of their own, and chunks of one, of some and of all."""
    shapes = [(16, 16), (8, 24), (24, 8), (16, 16), (8, 24), (16, 16)]

    def items():
        return [parameter(*shape, seed=number) for number, shape in enumerate(shapes)]

    alone, together = items(), items()
    rates = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    for step in range(3):
        set_gradients(alone, step)
        for item, rate in zip(alone, rates, strict=True):
            if step == 0:
                item.optimizer = Muon([item], lr=rate)
            item.optimizer.step()
    monkeypatch.setattr(muon, "_CHUNK", chunk)
    optimizer = Muon([{"params": [item], "lr": rate} for item, rate in zip(together, rates, strict=True)])
    train(optimizer, together)
    assert len(list(optimizer._chunks())) == (6 if chunk == 1 else 5 if chunk == 400 else 2)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


# --- fused matrices -------------------------------------------------------------------------------


def fused(layout: str, parts: list[torch.Tensor], heads: int) -> torch.Tensor:
    """Query, key and value, ``(out, in)`` each, in one weight as GPT-2's Conv1D or GPT-NeoX's Linear hold them."""
    if layout == "columns":
        return torch.cat([part.T for part in parts], dim=1)
    width = parts[0].shape[1]
    return torch.cat([part.view(heads, -1, width)[head] for head in range(heads) for part in parts])


@pytest.mark.parametrize("layout", ["columns", "heads"])
def test_a_fused_weight_is_three_matrices(layout):
    width, heads = 24, 4
    parts = [parameter(width, width, seed=number) for number in range(3)]
    whole = torch.nn.Parameter(fused(layout, [part.detach() for part in parts], heads))
    ours = Muon([{"params": [whole], "layout": layout, "heads": heads}], lr=0.05)
    separate = Muon(parts, lr=0.05)
    for step in range(3):
        set_gradients(parts, step)
        # A value's gradient of another size: one matrix for all three would be its alone.
        parts[2].grad *= 50
        whole.grad = fused(layout, [part.grad for part in parts], heads)
        ours.step()
        separate.step()
    assert torch.allclose(whole, fused(layout, [part.detach() for part in parts], heads), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_the_layouts_are_those_of_the_models(family):
    """Against attention computed by hand from what the layout calls query, key and value."""
    import transformers

    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(n_embd=24, n_head=4, n_layer=1, vocab_size=32, n_positions=16, attn_pdrop=0)
        model = transformers.GPT2LMHeadModel(config).eval()
        attention, fused_weight, out = model.transformer.h[0].attn, "c_attn", "c_proj"
        group = {"layout": "columns"}
    else:
        shape = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 96, "vocab_size": 32}
        config = transformers.GPTNeoXConfig(**shape, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.0})
        model = transformers.GPTNeoXForCausalLM(config).eval()
        attention, fused_weight, out = model.gpt_neox.layers[0].attention, "query_key_value", "dense"
        group = {"layout": "heads", "heads": 4}
    weight = getattr(attention, fused_weight).weight.detach()
    parts = muon._matrices(weight, group)
    parts = [part.T if family == "gpt2" else part.reshape(24, 24) for part in parts]  # (out, in)
    hidden = torch.randn(1, 5, 24)
    query, key, value = ((hidden @ part.T).view(1, 5, 4, 6).transpose(1, 2) for part in parts)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = getattr(attention, out)(mixed.transpose(1, 2).reshape(1, 5, 24))
    given = {"attention_mask": None}
    if family == "gpt_neox":  # no dimension is rotated
        given["position_embeddings"] = (torch.ones(1, 5, 0), torch.zeros(1, 5, 0))
    assert torch.allclose(attention(hidden, **given)[0], expected, atol=1e-5)


# --- the rest, and the object ------------------------------------------------------------------------


def both(seed: int = 0) -> tuple[list[torch.nn.Parameter], list[dict]]:
    """Three parameters for Muon, one of them fused, and two for AdamW, in groups."""
    items = [parameter(8, 16, seed=seed), parameter(12, 12, seed=seed + 1), parameter(8, 24, seed=seed + 2)]
    items += [parameter(30, 8, seed=seed + 3), parameter(8, seed=seed + 4)]
    groups = [
        {"params": items[:2]},
        {"params": items[2:3], "layout": "columns"},
        {"params": items[3:4], "kind": "adamw", "lr": 0.02},
        {"params": items[4:], "kind": "adamw", "lr": 0.02, "weight_decay": 0.0},
    ]
    return items, groups


def test_the_rest_is_stepped_as_torchs_adamw_does():
    items, groups = both()
    twins = [parameter(30, 8, seed=3), parameter(8, seed=4)]
    theirs = torch.optim.AdamW(
        [{"params": twins[:1], "weight_decay": 0.1}, {"params": twins[1:], "weight_decay": 0.0}],
        lr=0.02,
        betas=(0.8, 0.9),
        eps=1e-7,
        fused=True,
    )
    ours = Muon(groups, betas=(0.8, 0.9), eps=1e-7)
    for step in range(4):
        set_gradients(items, step)
        for twin, item in zip(twins, items[3:], strict=True):
            twin.grad = item.grad.clone()
        ours.step()
        theirs.step()
    for twin, item in zip(twins, items[3:], strict=True):
        assert torch.equal(twin, item)


def test_one_buffer_a_matrix_and_two_for_the_rest():
    items, groups = both()
    optimizer = Muon(groups)
    train(optimizer, items, steps=1)
    numbers = [sum(value.numel() for value in optimizer.state[item].values() if value.ndim) for item in items]
    assert numbers == [items[0].numel(), items[1].numel(), items[2].numel(), 2 * items[3].numel(), 2 * items[4].numel()]


def test_state_saved_and_loaded_goes_on_bit_for_bit():
    items, groups = both()
    whole = Muon(groups, lr=0.03)
    train(whole, items, steps=5)

    again, groups = both()
    first = Muon(groups, lr=0.03)
    train(first, again, steps=2)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    _, groups = both()
    for group, own in zip(groups, first.param_groups, strict=True):
        group["params"] = own["params"]
    second = Muon(groups, lr=99.0)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, again, steps=3, first=2)
    assert all(torch.equal(one, other) for one, other in zip(items, again, strict=True))


def test_a_parameter_without_a_gradient_is_left_alone():
    items, groups = both()
    before = [item.detach().clone() for item in items]
    optimizer = Muon(groups)
    set_gradients(items, 0)
    items[0].grad = items[4].grad = None
    optimizer.step()
    assert [torch.equal(item, old) for item, old in zip(items, before, strict=True)] == [True, False, False, False, True]
    train(optimizer, items, steps=1)
    assert not torch.equal(items[0], before[0])


def test_a_schedule_scales_each_groups_own_rate():
    items, groups = both()
    optimizer = Muon(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(optimizer, items, steps=1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.01, 0.01])


def test_a_closure_is_called_with_gradients_on():
    items, groups = both()
    optimizer = Muon(groups)
    before = [item.detach().clone() for item in items]

    def closure():
        optimizer.zero_grad()
        loss = sum(item.square().sum() for item in items)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(sum(float(item.square().sum()) for item in before))
    assert not any(torch.equal(item, old) for item, old in zip(items, before, strict=True))


def test_gradient_scaling_changes_nothing_and_an_overflow_skips_the_step():
    plain, groups = both()
    train(Muon(groups), plain, steps=1)
    scaled, groups = both()
    optimizer, scaler = Muon(groups), torch.amp.GradScaler("cpu", init_scale=1024.0)
    set_gradients(scaled, 0, scale=float(scaler.scale(torch.ones(()))))
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(one, other) for one, other in zip(plain, scaled, strict=True))
    set_gradients(scaled, 1, scale=1024.0)
    scaled[1].grad[0, 0] = math.inf
    scaler.step(optimizer)
    assert all(torch.equal(one, other) for one, other in zip(plain, scaled, strict=True))


@pytest.mark.parametrize(
    ("group", "told"),
    [({"kind": "adam"}, "adam"), ({"layout": "rows"}, "rows"), ({"params": [parameter(4)]}, "matrices")],
)
def test_what_it_cannot_step_is_refused(group, told):
    with pytest.raises(ValueError, match=told):
        Muon([{"params": [parameter(4, 4)]} | group])
