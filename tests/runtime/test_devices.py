"""What the machine is taken for; the hardware is made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmforge.runtime import devices
from llmforge.runtime.devices import Device, available_cores, format_bytes, peak_memory, probe_device


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """Makes torch believe that it has a GPU; gives what `probe_device` makes of it."""

    def install(major: int = 8, hip: str | None = None, architecture: str = "", count: int = 1, name: str = "Card") -> Device:
        asked = []

        def properties(index: int) -> SimpleNamespace:
            asked.append(index)
            return SimpleNamespace(major=major, name=f"{name} {index}", total_memory=12 * 2**30, gcnArchName=architecture)

        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.version, "hip", hip)
        return probe_device()

    return install


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("major", "half"),
    [(6, None), (7, "fp16"), (8, "bf16"), (9, "bf16"), (12, "bf16")],
    ids=["Pascal", "Turing", "Ampere", "Hopper", "Blackwell"],
)
def test_nvidia_half_precision(gpu, major: int, half: str | None):
    assert gpu(major) == Device("cuda", "Card 0", 12 * 2**30, half)


@pytest.mark.parametrize(
    ("architecture", "half"),
    [
        ("gfx1030", "fp16"),  # RDNA2: RX 6700 XT and its kin
        ("gfx1031", "fp16"),
        ("gfx1010:xnack-", "fp16"),
        ("gfx906:sramecc+:xnack-", "fp16"),
        ("gfx908:sramecc+", "bf16"),
        ("gfx90a", "bf16"),
        ("gfx942", "bf16"),
        ("gfx1100", "bf16"),  # RDNA3
        ("gfx1201", "bf16"),
    ],
)
def test_amd_half_precision(gpu, architecture: str, half: str):
    device = gpu(major=10, hip="7.0", architecture=architecture)
    assert (device.kind, device.half) == ("rocm", half)
    assert architecture.split(":")[0] in device.name


def test_each_process_looks_at_its_own_gpu(gpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpu(count=2).name == "Card 1"
    assert gpu(count=1).name == "Card 0"


@pytest.mark.parametrize(
    ("flags", "half"),
    [
        ("fpu sse avx2 avx512f avx512_bf16", "bf16"),
        ("fpu amx_bf16 amx_tile", "bf16"),
        ("fpu sse avx2 avx512f", None),
        ("fpu not_avx512_bf16", None),
        ("", None),
    ],
)
def test_cpu_half_precision(no_accelerator, monkeypatch: pytest.MonkeyPatch, flags: str, half: str | None):
    monkeypatch.setattr(devices, "_cpu_info", lambda: f"model name\t: Some CPU @ 2 GHz\nflags\t\t: {flags}\n")
    device = probe_device()
    assert (device.kind, device.half) == ("cpu", half)
    assert device.name.startswith("Some CPU @ 2 GHz, ")


def test_cpu_that_says_nothing_of_itself(no_accelerator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_cpu_info", lambda: "")
    device = probe_device()
    assert device.half is None
    assert device.name


def test_memory_of_a_control_group_counts(no_accelerator, monkeypatch: pytest.MonkeyPatch):
    real = Path.read_text

    def read_text(self: Path, *args, **kwargs) -> str:
        return "1073741824\n" if self.name in ("memory.max", "memory.limit_in_bytes") else real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert probe_device().memory == 2**30


def test_unlimited_control_group_is_the_machine(no_accelerator, monkeypatch: pytest.MonkeyPatch):
    import psutil

    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: "max\n" if "cgroup" in str(self) else real(self, *a, **k))
    assert probe_device().memory == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MiB"), (5 * 2**20, "5 MiB"), (2**30, "1.0 GiB"), (12.5 * 2**30, "12.5 GiB"), (2**30 - 1, "1024 MiB")],
)
def test_sizes_as_people_read_them(size: float, text: str):
    assert format_bytes(size) == text


def test_device_is_told_in_one_line():
    assert str(Device("cuda", "RTX 3060", 12 * 2**30, "bf16")) == "RTX 3060 (cuda, 12.0 GiB)"


def test_this_machine():
    assert available_cores() >= 1
    assert peak_memory() > 2**20
    assert probe_device().memory > 2**20


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "fp32", 19.5e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("AMD Radeon RX 6700 XT gfx1031", "fp16", 26.4e12),
        ("NVIDIA GeForce RTX 4080 SUPER", "bf16", None),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "bf16", None),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA H100 NVL", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-PCIE-16GB", "fp16", None),
        ("AMD Instinct MI250X/MI250", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("some card", "bf16", None),
    ],
)
def test_peak_of_a_known_card_and_of_no_other(name: str, precision: str, peak: float | None):
    assert devices.peak_flops(precision, name) == peak


def test_a_cpu_has_no_known_peak():
    assert devices.peak_flops("fp32") is None


def test_load_of_a_cpu_is_that_of_this_process():
    load = devices.device_load()
    assert set(load) == {"device_memory", "device_memory_peak", "device_utilization"}
    assert 2**20 < load["device_memory"] <= load["device_memory_peak"]


def test_load_of_a_gpu_leaves_out_what_its_driver_does_not_tell(monkeypatch):
    def untold() -> int:
        raise RuntimeError("a part of a card has no utilisation")

    figures = {"memory_allocated": 7, "max_memory_allocated": 9, "temperature": 61}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "utilization", untold)
    assert devices.device_load() == {"device_memory": 7, "device_memory_peak": 9, "device_temperature": 61.0}
