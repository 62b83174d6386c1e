"""One owner of the precision: launcher, then flag, then device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import training_args

from llmforge.errors import ConfigError
from llmforge.runtime import precision
from llmforge.runtime.devices import Device
from llmforge.runtime.precision import apply_precision, choose_precision

CPU = Device("cpu", "Old CPU", 2**34, None)
CPU_BF16 = Device("cpu", "New CPU", 2**34, "bf16")
AMPERE = Device("cuda", "RTX 3060", 2**33, "bf16")
TURING = Device("cuda", "RTX 2080", 2**33, "fp16")
PASCAL = Device("cuda", "GTX 1080", 2**33, None)
RDNA2 = Device("rocm", "RX 6700 XT gfx1031", 2**33, "fp16")
RDNA3 = Device("rocm", "RX 7900 XT gfx1100", 2**34, "bf16")


@pytest.mark.parametrize(
    ("requested", "launcher", "device", "chosen"),
    [
        # The device decides where nobody said anything; a CPU is never halved unasked.
        ("auto", None, CPU, "fp32"),
        ("auto", None, CPU_BF16, "fp32"),
        ("auto", None, AMPERE, "bf16"),
        ("auto", None, TURING, "fp16"),
        ("auto", None, PASCAL, "fp32"),
        ("auto", None, RDNA2, "fp16"),
        ("auto", None, RDNA3, "bf16"),
        # The flag.
        ("fp32", None, AMPERE, "fp32"),
        ("fp32", None, CPU, "fp32"),
        ("fp16", None, AMPERE, "fp16"),
        ("bf16", None, AMPERE, "bf16"),
        ("fp16", None, RDNA2, "fp16"),
        ("bf16", None, CPU_BF16, "bf16"),
        # The launcher, alone or of the same mind.
        ("auto", "fp32", AMPERE, "fp32"),
        ("auto", "fp16", AMPERE, "fp16"),
        ("auto", "bf16", CPU_BF16, "bf16"),
        ("auto", "fp32", CPU, "fp32"),
        ("bf16", "bf16", AMPERE, "bf16"),
        ("fp32", "fp32", RDNA2, "fp32"),
    ],
)
def test_precision_is_chosen(requested: str, launcher: str | None, device: Device, chosen: str):
    assert choose_precision(requested, launcher, device) == chosen


@pytest.mark.parametrize(
    ("requested", "launcher", "device", "words"),
    [
        ("bf16", "fp16", AMPERE, ["--precision bf16", "fp16", "launcher"]),
        ("fp32", "bf16", AMPERE, ["--precision fp32", "bf16", "launcher"]),
        ("fp16", "fp32", AMPERE, ["--precision fp16", "fp32", "launcher"]),
        ("bf16", None, RDNA2, ["RX 6700 XT", "bf16", "--precision fp16"]),
        ("bf16", None, TURING, ["RTX 2080", "bf16", "--precision fp16"]),
        ("auto", "bf16", TURING, ["RTX 2080", "bf16"]),
        ("bf16", None, PASCAL, ["GTX 1080", "bf16"]),
        ("bf16", None, CPU, ["Old CPU", "bf16", "--precision fp32"]),
        ("fp16", None, CPU, ["Old CPU", "fp16", "--precision fp32"]),
        ("fp16", None, CPU_BF16, ["New CPU", "fp16"]),
        ("auto", "fp16", CPU, ["Old CPU", "fp16", "launcher config"]),
        ("auto", "bf16", CPU, ["Old CPU", "bf16", "launcher config"]),
    ],
)
def test_contradiction_is_refused(requested: str, launcher: str | None, device: Device, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        choose_precision(requested, launcher, device)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("device", "flags"), [(AMPERE, (False, True, "bf16")), (RDNA2, (True, False, "fp16")), (CPU, (False, False, "no"))]
)
def test_choice_is_written_where_trainer_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device, flags: tuple):
    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: device)
    args = training_args(tmp_path)
    args.use_cpu = device.kind == "cpu"
    assert apply_precision(args) == {"no": "fp32"}.get(flags[2], flags[2])
    assert (args.fp16, args.bf16, args.mixed_precision) == flags
    # Asked again, by build_trainer after parse_pretrain, it says the same.
    apply_precision(args)
    assert (args.fp16, args.bf16, args.mixed_precision) == flags


def test_cpu_asked_for_beside_a_gpu_is_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: CPU if use_cpu else AMPERE)
    args = training_args(tmp_path, use_cpu=True)
    assert apply_precision(args) == "fp32"
    with pytest.raises(ConfigError, match="emulated"):
        apply_precision(training_args(tmp_path, use_cpu=True, precision="bf16"))


@pytest.mark.parametrize(("stated", "flags"), [("bf16", (False, True)), ("fp16", (True, False))])
def test_launcher_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str, flags: tuple[bool, bool]):
    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: AMPERE)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", stated)
    args = training_args(tmp_path)
    args.use_cpu = False
    apply_precision(args)
    assert (args.fp16, args.bf16) == flags


def test_launcher_and_flag_that_disagree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: AMPERE)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for fields in ({"precision": "fp16"}, {"fp16": True}, {"precision": "fp32"}):
        args = training_args(tmp_path, **fields)
        args.use_cpu = False
        with pytest.raises(ConfigError, match="launcher"):
            apply_precision(args)


@pytest.mark.parametrize(("device", "tf32"), [(AMPERE, True), (RDNA3, None), (RDNA2, None), (TURING, None), (CPU, None)])
def test_tf32_comes_with_bf16_on_nvidia_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device, tf32: bool | None):
    switched = []
    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: device)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", switched.append)
    args = training_args(tmp_path)
    apply_precision(args)
    assert (args.tf32, switched) == (tf32, ["high"] if tf32 else [])
    full = training_args(tmp_path, precision="fp32")
    apply_precision(full)
    assert full.tf32 is None  # fp32 that was asked for is fp32
