"""The head and cross entropy in chunks, against `cross_entropy(linear(…))` and against float64."""

from __future__ import annotations

import pytest
import torch
from tensor_watch import Tensors
from torch.nn import functional as F

from llmforge import cross_entropy
from llmforge.cross_entropy import chunk_rows, linear_cross_entropy

#: 150 positions are two chunks of 64 and a ragged one.
POSITIONS, WIDTH, VOCABULARY = 150, 32, 500
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_CPU_ROWS", 64)


def problem(positions=POSITIONS, vocabulary=VOCABULARY, dtype=torch.float32):
    """Hidden states as a layer norm leaves them, a head that is sure of itself, and targets of which every fifth is ignored."""
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, WIDTH, generator=source).to(dtype).requires_grad_()
    weight = (0.3 * torch.randn(vocabulary, WIDTH, generator=source)).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (positions,), generator=source)
    targets[::5] = -100
    return hidden, weight, targets


def stock(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def truth(hidden, weight, targets, divisor=1.0):
    """The loss and its gradients in float64 from the very same numbers."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum") / divisor
    return loss.detach(), *torch.autograd.grad(loss, (hidden, weight))


def errors(function, hidden, weight, targets, divisor=1.0, scale=1.0):
    """Of loss, hidden and weight gradients: the error's length over the true one's. `scale` is a loss scaler's."""
    loss = function(hidden, weight, targets) / divisor
    grads = torch.autograd.grad(loss * scale, (hidden, weight))
    assert [grad.dtype for grad in grads] == [hidden.dtype, weight.dtype]
    made = (loss.detach(), *(grad.double() / scale for grad in grads))
    return [
        float((ours.double() - true).norm() / true.norm())
        for ours, true in zip(made, truth(hidden, weight, targets, divisor), strict=True)
    ]


#: What a length differs by from float64's at most. Seen: 1.2e-7, 4.7e-7, 3.5e-7 in fp32.
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


@pytest.mark.parametrize("dtype", BOUNDS)
def test_it_is_stocks_loss_and_gradient(dtype):
    """Nearer to the truth than stock, or as near, in what the model itself is in."""
    given = problem(dtype=dtype)
    ours, theirs = errors(linear_cross_entropy, *given, divisor=120), errors(stock, *given, divisor=120)
    print(dtype, ours, theirs)
    assert max(ours) < BOUNDS[dtype]
    for mine, their in zip(ours[1:], theirs[1:], strict=True):
        assert mine < 1.2 * their


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_matrices_are_multiplied_in_its_dtype_and_the_rest_is_fp32(dtype):
    given = problem()
    with torch.autocast("cpu", dtype=dtype), Tensors() as seen:
        loss = linear_cross_entropy(*given)
    assert {call.dtype for call in seen.calls if call.name == "mm"} == {dtype}
    assert {call.dtype for call in seen.calls if "log_softmax" in call.name} == {torch.float32}
    assert loss.dtype == torch.float32

    def within(function):
        def run(*inputs):
            with torch.autocast("cpu", dtype=dtype):
                return function(*inputs)

        return run

    ours, theirs = (errors(within(function), *given, divisor=120) for function in (linear_cross_entropy, stock))
    print(dtype, ours, theirs)
    assert max(ours) < BOUNDS[dtype]
    for mine, their in zip(ours[1:], theirs[1:], strict=True):
        assert mine < 1.2 * their


def test_fp16_keeps_the_gradients_that_a_mean_loses():
    """A step of 8,192 targets, one micro-batch of it: a logit's gradient is about 1 / (vocabulary * targets), here 3e-8.

    Half of fp16's smallest number; what is smaller than that becomes zero.
    """
    hidden, weight, targets = problem(positions=512, vocabulary=4096)
    with torch.no_grad():
        weight *= 0.1  # knows little yet
    stock_logits: list[torch.Tensor] = []

    def averaged(*inputs):
        logits = F.linear(*inputs[:2])
        logits.register_hook(stock_logits.append)
        return F.cross_entropy(logits.float(), inputs[2], reduction="sum")

    with torch.autocast("cpu", dtype=torch.float16):
        stock_error = errors(averaged, hidden, weight, targets, divisor=8192)
        error = errors(linear_cross_entropy, hidden, weight, targets, divisor=8192)
    lost = (stock_logits[0][targets != -100] == 0).double().mean()
    print(float(lost), error, stock_error)
    assert lost > 0.5
    assert max(error[1:]) < 1e-3
    assert min(stock_error[1:]) > 10 * max(error[1:])


def test_fp16_holds_a_loss_scale_that_is_above_its_range():
    """2**17 is multiplied in fp32; the gradients themselves are small enough."""
    hidden, weight, targets = problem(dtype=torch.float16)
    hidden, weight = ((0.03 * tensor).detach().requires_grad_() for tensor in (hidden, weight))
    assert max(errors(linear_cross_entropy, hidden, weight, targets, scale=2.0**17)) < BOUNDS[torch.float16]


def test_fp16_sums_of_a_chunk_stay_in_its_range(monkeypatch):
    """Two thousand times the same token with hidden states of 60: one product of them all would be infinite."""
    monkeypatch.setattr(cross_entropy, "_CPU_ROWS", 4096)
    hidden = torch.full((2048, 8), 60.0, requires_grad=True)
    weight = torch.zeros(64, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = linear_cross_entropy(hidden, weight, torch.zeros(2048, dtype=torch.int64))
    (grad,) = torch.autograd.grad(loss / 2048, weight)
    assert grad[0, 0] == pytest.approx(-60 * 63 / 64, rel=1e-3)


@pytest.mark.parametrize("rows", [1, 7, 149, 150, 4096])
def test_chunks_of_any_size_give_the_same(rows, monkeypatch):
    expected = truth(*problem())
    monkeypatch.setattr(cross_entropy, "chunk_rows", lambda *_: rows)
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden, weight, targets)
    for ours, true in zip((loss.detach(), *torch.autograd.grad(loss, (hidden, weight))), expected, strict=True):
        assert float((ours - true).norm() / true.norm()) < 1e-6


def test_fp64_stays_fp64():
    given = problem(dtype=torch.float64)
    assert max(errors(linear_cross_entropy, *given)) < 1e-14
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_cross_entropy(*given).dtype == torch.float64


def test_all_logits_never_exist():
    hidden, weight, targets = problem(positions=900)
    with Tensors() as seen:
        linear_cross_entropy(hidden, weight, targets).backward()
    assert seen.largest == 64 * VOCABULARY
    with Tensors() as seen:
        stock(hidden, weight, targets).backward()
    assert seen.largest == 900 * VOCABULARY, "the recorder sees what stock makes"


def test_nothing_waits_for_the_device():
    """A number read from a tensor, or a choice of positions by what is in one, holds up a GPU."""
    hidden, weight, targets = problem()
    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "index", "index_put_", "unique"}
    with Tensors() as seen:
        (linear_cross_entropy(hidden, weight, targets) / torch.tensor(3)).backward()
    assert "gather" in seen.kernels
    assert not seen.kernels & waiting
    with Tensors() as seen:
        hidden[targets != -100].sum().item()
    assert seen.kernels >= {"index", "_local_scalar_dense"}


@pytest.mark.parametrize(("learns_hidden", "learns_weight"), [(True, False), (False, True), (False, False)])
def test_what_is_frozen_costs_nothing(learns_hidden, learns_weight):
    hidden, weight, targets = problem()
    hidden.requires_grad_(learns_hidden)
    weight.requires_grad_(learns_weight)
    with Tensors() as seen:
        loss = linear_cross_entropy(hidden, weight, targets)
    products = sum(call.name in ("mm", "addmm_") for call in seen.calls)
    assert products == 3 * (1 + learns_hidden + learns_weight), "chunks, times logits and each gradient"
    assert loss.requires_grad == (learns_hidden or learns_weight)
    if loss.requires_grad:
        loss.backward()
    _, hidden_grad, weight_grad = truth(hidden, weight, targets)
    for tensor, wanted, true in ((hidden, learns_hidden, hidden_grad), (weight, learns_weight, weight_grad)):
        assert (tensor.grad is not None) == wanted
        if wanted:
            assert torch.allclose(tensor.grad.double(), true, atol=1e-4)


def test_without_gradients_none_are_made():
    hidden, weight, targets = problem()
    with torch.no_grad(), Tensors() as seen:
        loss = linear_cross_entropy(hidden, weight, targets)
    assert sum(call.name in ("mm", "addmm_") for call in seen.calls) == 3
    assert float(loss) == pytest.approx(float(truth(hidden, weight, targets)[0]), rel=1e-6)


@pytest.mark.parametrize("positions", [0, 70])
def test_without_a_target_loss_and_gradients_are_zero(positions):
    hidden, weight, _ = problem()
    hidden = hidden[:positions].detach().requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.full((positions,), -100))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_a_second_backward_pass_raises_instead_of_being_wrong():
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden, weight, targets)
    (grad,) = torch.autograd.grad(3 * loss, weight, retain_graph=True)
    before = grad.clone()
    with pytest.raises(RuntimeError, match="--no-lean-loss"):
        loss.backward()
    assert torch.equal(grad, before)
    with pytest.raises(RuntimeError, match="--no-lean-loss"):
        torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), hidden, create_graph=True)


def test_faults_of_the_caller_are_refused():
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match="targets"):
        linear_cross_entropy(hidden, weight, targets[:1])
    with pytest.raises(ValueError, match=r"float16 and weight in torch\.float32"):
        linear_cross_entropy(hidden.half(), weight, targets)
    for wrong in (VOCABULARY, -1):
        targets[1] = wrong
        with pytest.raises((IndexError, RuntimeError)):
            linear_cross_entropy(hidden, weight, targets)


@pytest.mark.parametrize("vocabulary", [400, 8192, 50304, 300_000])
@pytest.mark.parametrize("positions", [1, 64, 1000, 4096, 8191])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_are_even_whole_tiles_within_the_limit(positions, vocabulary, device):
    limit = {"cpu": 64, "cuda": 256}[device] * 2**20
    rows = chunk_rows(positions, vocabulary, torch.float32, torch.device(device))
    assert rows % 64 == 0
    assert rows == 64 or rows * vocabulary * 4 <= limit
    chunks = -(-positions // rows)
    assert rows * chunks - positions < 64 * chunks, "no chunk is much smaller than the others"
    assert chunk_rows(positions, vocabulary, torch.float16, torch.device(device)) <= 1024
