"""Machines that are not there: folders in the place of /proc, /sys and /dev, and a process that says what torch would."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.diagnosis.machine import Machine

#: A card as the PCI bus tells of it.
NVIDIA = {"vendor": "0x10de\n", "class": "0x030000\n"}
DATACENTER = {"vendor": "0x10de\n", "class": "0x030200\n"}
RADEON = {"vendor": "0x1002\n", "class": "0x030000\n"}
INSTINCT = {"vendor": "0x1002\n", "class": "0x120000\n"}
#: What is no GPU to train on: a virtual display, a network card of NVIDIA's (formerly Mellanox) sort.
VIRTUAL = {"vendor": "0x1af4\n", "class": "0x030000\n"}
NETWORK = {"vendor": "0x10de\n", "class": "0x020000\n"}

DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n"
CPU_ONLY = {
    "version": "2.13.0+cpu",
    "cuda": None,
    "hip": None,
    "devices": [{"kind": "cpu", "name": "AMD EPYC, 2 cores", "memory": 16 << 30, "half": None, "architecture": ""}],
    "architectures": [],
    "said": "",
}
CUDA = {
    "version": "2.13.0+cu130",
    "cuda": "13.0",
    "hip": None,
    "devices": [{"kind": "cuda", "name": "NVIDIA RTX 3090", "memory": 24 << 30, "half": "bf16", "architecture": "sm_86"}],
    "architectures": ["sm_80", "sm_86", "sm_90", "sm_120"],
    "said": "",
}
ROCM = {
    "version": "2.13.0+rocm7.1",
    "cuda": None,
    "hip": "7.1.52802",
    "devices": [{"kind": "rocm", "name": "RX 7900 XTX gfx1100", "memory": 24 << 30, "half": "bf16", "architecture": "gfx1100"}],
    "architectures": ["gfx90a", "gfx942", "gfx1030", "gfx1100"],
    "said": "",
}
BLIND = {"devices": CPU_ONLY["devices"]}

_CHILD = """
import json, sys
answers = json.loads({answers!r})
for part in json.loads(sys.argv[1])["parts"]:
    print(json.dumps({{"begin": part}}))
    for message in answers.get(part, []):
        print(json.dumps(message))
    print(json.dumps({{"end": part}}), flush=True)
"""


def child(facts: dict[str, Any] | None = None, **answers: list[dict[str, Any]]) -> tuple[str, ...]:
    """A process that answers with these messages, by part, and with `facts` of torch."""
    answers = {"stack": [{"torch": facts or CPU_ONLY}]} | answers
    return (sys.executable, "-S", "-c", _CHILD.format(answers=json.dumps(answers)))


def python(source: str) -> tuple[str, ...]:
    """A process that does this instead of answering."""
    return (sys.executable, "-S", "-c", source)


def install(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), extras: tuple[str, ...] = ()) -> None:
    """Put a package's metadata into `folder`, as pip leaves it."""
    home = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    home.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    (home / "METADATA").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def put(machine: Machine, files: dict[str, str]) -> None:
    """Write files below the machine's root."""
    for name, text in files.items():
        path = machine.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def plug(machine: Machine, *cards: dict[str, str]) -> Machine:
    """Put cards on the PCI bus."""
    for number, card in enumerate(cards, start=len(machine.find("sys/bus/pci/devices/*"))):
        put(machine, {f"sys/bus/pci/devices/0000:{number:02x}:00.0/{name}": text for name, text in card.items()})
    return machine


def healthy(folder: Path, **changes: Any) -> Machine:
    """A machine without a GPU on which all is well, but for `changes`."""
    packages = folder / "packages"
    if not packages.exists():
        install(
            packages, "llmforge", "0.1.0", ("torch>=2.13,<2.15", "numpy>=2", "wandb>=0.31; extra == 'wandb'"), ("wandb", "dev")
        )
        for name, version in (("torch", "2.13.0+cpu"), ("numpy", "2.4.0"), ("wandb", "0.31.0")):
            install(packages, name, version)
    machine = Machine(
        root=folder / "root",
        environment={},
        user=1000,
        groups=frozenset({"someone", "render", "video"}),
        packages=[str(packages)],
        child=child(),
        run=lambda command: None,
        room=lambda path: (100 << 30, 50 << 30),
        write=lambda place, block, blocks: 0.001 if blocks == 1 else 0.1,
        open_files=lambda: 65536,
    )
    cpu = "processor : 0\nflags : fpu sse avx2\n"
    memory = "MemTotal:  16000000 kB\nMemAvailable:  12000000 kB\n"
    put(machine, {"proc/cpuinfo": cpu, "proc/meminfo": memory, "dev/shm/x": ""})
    return replace(machine, **changes)


def with_nvidia(folder: Path, **changes: Any) -> Machine:
    """One with an NVIDIA card on which all is well."""
    machine = plug(healthy(folder, child=child(CUDA)), NVIDIA)
    put(machine, {"proc/driver/nvidia/version": DRIVER})
    return replace(machine, **changes)


def with_amd(folder: Path, target: int = 110000, **changes: Any) -> Machine:
    """One with an AMD card on which all is well; `target` is the card as the driver numbers it."""
    machine = plug(healthy(folder, child=child(ROCM)), RADEON)
    nodes = "sys/class/kfd/kfd/topology/nodes"
    put(machine, {"dev/kfd": "", "dev/dri/renderD128": "", "sys/module/amdgpu/version": "6.16.6\n"})
    put(machine, {f"{nodes}/0/properties": "cpu_cores_count 8\ngfx_target_version 0\n"})
    put(machine, {f"{nodes}/1/properties": f"simd_count 96\ngfx_target_version {target}\n"})
    return replace(machine, **changes)
