"""Kernels that compute wrongly are found, in every operation and in the step of a whole model; right ones pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmforge.diagnosis.model_step import compare_steps
from llmforge.diagnosis.numerics import Comparison, compare_operations, compared
from llmforge.diagnosis.speed import look_at_speed, told_speed
from llmforge.diagnosis.stack import find_devices, place_of, show_devices, torch_facts
from llmforge.diagnosis.verdict import told_comparisons
from llmforge.runtime.devices import Device

CPU = torch.device("cpu")
aten = torch.ops.aten


class Broken(TorchDispatchMode):
    """A device whose kernel for some operations does something else; `hits` counts how often."""

    def __init__(self, names: tuple[str, ...], change):
        super().__init__()
        self.names, self.change, self.hits = names, change, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket._qualified_op_name.split("::")[1] in self.names:
            self.hits += 1
            first = result[0] if isinstance(result, tuple) else result
            changed = self.change(first)
            if first is not changed and args and first is args[0]:
                first.copy_(changed)
            else:
                result = (changed, *result[1:]) if isinstance(result, tuple) else changed
        return result


def wrong(comparisons) -> set[str]:
    return {item.name for item in comparisons if not item.right}


def told(what: str) -> None:
    assert what


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_device_that_computes_rightly_passes(precision):
    """On a CPU, in each precision that a device may have natively."""
    made = [*compare_operations(CPU, precision, told), *compare_steps(CPU, precision, told)]
    assert wrong(made) == set()
    assert len(made) == (14 if precision == "fp32" else 13)
    # Rounding stays well below what is allowed.
    assert max(item.error / item.allowed for item in made) < 0.2


def test_products_that_the_environment_makes_coarser_are_whole_while_they_are_compared(monkeypatch):
    """As with TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1, on a card that has TF32."""
    from llmforge.diagnosis.child import examine

    seen = []

    def compare(place, kind, tell):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return [Comparison("matmul", 0.0, 1.0)]

    monkeypatch.setattr("llmforge.diagnosis.numerics.compare_operations", compare)
    monkeypatch.setattr("llmforge.diagnosis.model_step.compare_steps", compare)
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    written: list[dict] = []
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        examine({"parts": ["numerics"]}, written.append)
        after = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
    assert [item["finding"]["level"] for item in written if "finding" in item] == ["ok"]
    assert set(seen) == {("highest", False)}
    assert after == ("high", True)  # what comes next is measured as it will train


KERNELS = {
    "matmul": ("mm",),
    "softmax": ("_softmax",),
    "layer norm": ("native_layer_norm",),
    "cross entropy": ("_log_softmax",),
    "causal attention": ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "change", [torch.zeros_like, lambda result: result * 1.01, lambda result: result / 0], ids=["0", "1%", "inf"]
)
def test_a_kernel_that_writes_something_else_is_found(name, change):
    broken = Broken(KERNELS[name], change)
    found = wrong(compare_operations(CPU, "fp32", told, lambda: broken))
    assert broken.hits
    assert f"{name} in fp32" in found


def test_an_adamw_that_does_nothing_is_found():
    class Idle(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_fused_adamw" in str(func):
                return None
            return func(*args, **(kwargs or {}))

    assert wrong(compare_operations(CPU, "fp32", told, Idle)) == {"AdamW"}


@pytest.mark.parametrize(
    "names",
    [
        ("_scaled_dot_product_flash_attention_for_cpu_backward",),
        ("native_layer_norm_backward",),
        ("gelu_backward", "tanh_backward"),
    ],
    ids=["attention", "layer norm", "activation"],
)
def test_a_wrong_gradient_is_found_in_the_step_of_a_model(names):
    """The operations alone are forward, and right."""
    broken = Broken(names, torch.zeros_like)
    assert wrong(compare_operations(CPU, "fp32", told, lambda: broken)) == set()
    found = wrong(compare_steps(CPU, "fp32", told, lambda: broken))
    assert broken.hits
    assert {"gradients of GPT-2 in fp32", "gradients of GPT-NeoX in fp32"} <= found


def test_a_gradient_that_is_off_by_a_little_is_found():
    broken = Broken(("native_layer_norm_backward",), lambda gradient: gradient * 1.02)
    assert "gradients of GPT-2 in fp32" in wrong(compare_steps(CPU, "fp32", told, lambda: broken))


def test_what_is_not_a_number_is_wrong():
    nan = compared("x", np.array([1.0, np.nan]), np.array([1.0, 1.0]), 1.0)
    assert not nan.right
    assert not Comparison("x", math.inf, 1.0).right


def test_the_verdict_names_what_is_wrong_and_by_how_much():
    fine, off = Comparison("softmax in fp32", 1e-6, 1e-4), Comparison("matmul in bf16", 1.0, 4e-2)
    found = told_comparisons("RX 6700 XT gfx1031", "rocm", [fine, off, Comparison("AdamW", math.nan, 1e-3)])
    assert (found.level, found.simulated) == ("failure", True)
    assert found.text == "RX 6700 XT gfx1031 computes wrongly: matmul in bf16 (off by 1 of its size), AdamW (not finite)."
    assert "HSA_OVERRIDE_GFX_VERSION" in found.remedy
    assert told_comparisons("EPYC", "cpu", [fine]).text == (
        "1 comparisons with float64 are right, the worst at 1.0% of what rounding may do"
    )


# Speed.


def test_a_device_far_below_its_peak_is_slow():
    """The peaks are those of the RTX 3090: 936 GB/s, 71 TFLOP/s."""
    fine = told_speed("NVIDIA GeForce RTX 3090", "cuda", "bf16", 800e9, 60e12)
    assert fine.level == "ok"
    assert fine.text == "memory 800.0 GB/s (85% of the peak), matrix products 60.0 TFLOP/s in bf16 (85% of the peak)"
    assert told_speed("NVIDIA GeForce RTX 3090", "cuda", "bf16", 800e9, 10e12).level == "warning"
    assert told_speed("NVIDIA GeForce RTX 3090", "cuda", "bf16", 300e9, 60e12).level == "warning"
    unknown = told_speed("NVIDIA GeForce GT 710", "cuda", "fp32", 1e9, 1e9)
    assert (unknown.level, "no peak is known" in unknown.text) == ("ok", True)
    assert told_speed("RTX 3090 of a CPU's name", "cpu", "fp32", 1e9, 1e9).level == "ok"


def test_every_bandwidth_is_of_a_card_in_the_table():
    from llmforge.diagnosis.speed import _BANDWIDTH
    from llmforge.runtime.devices import table_name

    assert [name for name in _BANDWIDTH if table_name(name) != name] == []


def test_the_speed_of_this_cpu_is_measured(monkeypatch):
    monkeypatch.setattr("llmforge.diagnosis.speed._SECONDS", 0.01)
    found = look_at_speed(Device("cpu", "EPYC", 1 << 28, None), CPU, "fp32", told)
    assert found.level == "ok"
    assert "GFLOP/s" in found.text


def test_this_machine_s_devices():
    facts = torch_facts()
    assert facts["version"] == torch.__version__
    shown = list(show_devices(facts))
    assert [item.subject for item in shown] == ["torch", *("device" for _ in facts["devices"])]
    assert len(facts["devices"]) == len(find_devices()) >= 1
    assert place_of(3, Device("rocm", "RX", 1, "fp16")) == torch.device("cuda", 3)
    assert place_of(0, Device("cpu", "EPYC", 1, None)) == CPU
