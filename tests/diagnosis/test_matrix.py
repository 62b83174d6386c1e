"""Every fault that doctor is for, planted one at a time on a machine that is otherwise well."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import (
    BLIND,
    CUDA,
    DATACENTER,
    INSTINCT,
    NETWORK,
    NVIDIA,
    RADEON,
    ROCM,
    VIRTUAL,
    child,
    healthy,
    install,
    plug,
    put,
    python,
    with_amd,
    with_nvidia,
)

from llmforge.configs.doctor import DoctorArguments
from llmforge.diagnosis.machine import Machine
from llmforge.doctor import diagnose
from llmforge.runtime.commands import run_command

GIB = 1 << 30


def examined(machine: Machine, capsys: pytest.CaptureFixture[str], **asked) -> tuple[int, list[dict]]:
    """The exit code and what was found, without what is well."""
    code = run_command(lambda argv: diagnose(DoctorArguments(json=True, **asked), machine), [])
    told = json.loads(capsys.readouterr().out)
    assert told["works"] == (code == 0)
    # Whoever is told what to do is told where to read on.
    assert [finding for finding in told["findings"] if finding["remedy"] and not finding["see"]] == []
    return code, [finding for finding in told["findings"] if finding["level"] != "ok"]


def without_space(folder: Path, block: bytes, blocks: int) -> float:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def without_permission(folder: Path, block: bytes, blocks: int) -> float:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("make", [healthy, with_nvidia, with_amd], ids=["cpu", "nvidia", "amd"])
def test_a_healthy_machine_is_silent(make, tmp_path, capsys):
    assert examined(make(tmp_path), capsys) == (0, [])


def test_what_is_no_gpu_to_train_on_is_none(tmp_path, capsys):
    assert examined(plug(healthy(tmp_path), VIRTUAL, NETWORK), capsys) == (0, [])


def planted(folder: Path) -> dict[str, Callable[[], Machine]]:
    """What makes a machine with one fault, by its name."""

    def at(name: str) -> Path:
        return folder / name

    def virtual(machine: Machine) -> Machine:
        put(machine, {"proc/cpuinfo": "processor : 0\nflags : fpu hypervisor avx2\n"})
        return machine

    def driver(machine: Machine, version: str) -> Machine:
        put(machine, {"proc/driver/nvidia/version": f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Jun  6\n"})
        return machine

    def amdgpu(machine: Machine, version: str) -> Machine:
        put(machine, {"sys/module/amdgpu/version": version})
        return machine

    blind_rocm, blind_cuda = child(ROCM | BLIND), child(CUDA | BLIND | {"said": "CUDA initialization: too old"})
    override = {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}
    return {
        "missing group": lambda: with_amd(at("a"), groups=frozenset({"someone", "video"}), child=blind_rocm),
        "missing groups": lambda: with_amd(at("a2"), groups=frozenset({"someone"}), child=blind_rocm),
        "cpu wheel, NVIDIA": lambda: plug(healthy(at("b")), NVIDIA),
        "cpu wheel, NVIDIA, old driver": lambda: driver(plug(healthy(at("b2")), DATACENTER), "535.54.03"),
        "cpu wheel, AMD": lambda: plug(healthy(at("c")), RADEON),
        "CUDA wheel, AMD": lambda: plug(healthy(at("c2"), child=blind_cuda), INSTINCT),
        "no driver": lambda: plug(healthy(at("d"), child=blind_cuda), NVIDIA),
        "driver and nothing seen": lambda: with_nvidia(at("d2"), child=blind_cuda),
        "no amdgpu": lambda: plug(healthy(at("d3"), child=blind_rocm), RADEON),
        "old NVIDIA driver": lambda: driver(with_nvidia(at("e"), child=blind_cuda), "535.54.03"),
        "old ROCm driver": lambda: amdgpu(with_amd(at("f"), child=blind_rocm), "6.7.0"),
        "old ROCm driver, seen": lambda: amdgpu(with_amd(at("f2")), "6.7.0"),
        "override on RDNA3": lambda: with_amd(at("g"), environment=override),
        "override without a card": lambda: healthy(at("g2"), environment=override),
        "override missing": lambda: with_amd(at("h"), target=100301),
        "another override": lambda: with_amd(at("h2"), target=100301, environment={"HSA_OVERRIDE_GFX_VERSION": "10.3.1"}),
        "no kernels": lambda: with_nvidia(at("i"), child=child(CUDA | {"architectures": ["sm_90", "sm_120"]})),
        "no passthrough": lambda: virtual(healthy(at("j"))),
        "no passthrough, ROCm": lambda: virtual(healthy(at("j2"), child=blind_rocm)),
        "hidden": lambda: with_nvidia(at("k"), child=blind_cuda, environment={"CUDA_VISIBLE_DEVICES": ""}),
        "full disk": lambda: healthy(at("l"), write=without_space),
        "nearly full disk": lambda: healthy(at("l2"), room=lambda path: (100 * GIB, GIB // 2)),
        "little room": lambda: healthy(at("l3"), room=lambda path: (100 * GIB, 3 * GIB)),
        "unwritable": lambda: healthy(at("m"), write=without_permission),
        "slow disk": lambda: healthy(at("n"), write=lambda folder, block, blocks: 0.01 * blocks + 0.001 * len(block) / 512),
        "low ulimit": lambda: healthy(at("o"), open_files=lambda: 256),
        "small shm": lambda: healthy(
            at("p"), room=lambda path: (64 << 20, 64 << 20) if path.name == "shm" else (100 * GIB, 50 * GIB)
        ),
    }


FAULTS = {
    # level, words, words of the remedy, entry, exit code
    "missing group": ("failure", "/dev/kfd is there, and you are not in the group render", "usermod -aG render ", "no-gpu"),
    "missing groups": ("failure", "groups render and video", "usermod -aG render,video ", "no-gpu"),
    "cpu wheel, NVIDIA": ("warning", "1 NVIDIA GPU on the PCI bus, and the build of PyTorch (2.13.0+cpu)", "whl/cu130", "no-gpu"),
    "cpu wheel, NVIDIA, old driver": ("warning", "is for the CPU", "whl/cu126", "no-gpu"),
    "cpu wheel, AMD": ("warning", "1 AMD GPU", "whl/rocm", "no-gpu"),
    "CUDA wheel, AMD": ("warning", "is for NVIDIA", "whl/rocm", "no-gpu"),
    "no driver": ("failure", "no NVIDIA driver is loaded", "--gpus all", "no-gpu"),
    "driver and nothing seen": ("failure", "sees none (CUDA initialization: too old)", "nvidia-smi", "no-gpu"),
    "no amdgpu": ("failure", "no amdgpu driver", "--device /dev/kfd", "no-gpu"),
    "old NVIDIA driver": ("failure", "535.54, and PyTorch 2.13.0+cu130 (CUDA 13.0) wants 580", "PyTorch for CUDA 12", "no-gpu"),
    "old ROCm driver": ("failure", "6.7.0 is that of ROCm 6.1", "newer amdgpu driver", "no-gpu"),
    "old ROCm driver, seen": ("warning", "6.7.0 is that of ROCm 6.1", "newer amdgpu driver", "no-gpu"),
    "override on RDNA3": ("warning", "the card is gfx1100", "unset HSA_OVERRIDE_GFX_VERSION", "invalid-device-function"),
    "override without a card": ("warning", "no RDNA2 card", "unset HSA_OVERRIDE_GFX_VERSION", "invalid-device-function"),
    "override missing": ("failure", "gfx1031 has no kernels", "VERSION=10.3.0", "invalid-device-function"),
    "another override": ("warning", "gfx1031 has to pass for gfx1030", "VERSION=10.3.0", "invalid-device-function"),
    "no kernels": ("failure", "RTX 3090 is sm_86", "build of PyTorch for this card", "invalid-device-function"),
    "no passthrough": ("note", "virtual machine without a GPU", "pass it through", "no-gpu"),
    "no passthrough, ROCm": ("warning", "virtual machine without a GPU", "pass it through", "no-gpu"),
    "hidden": ("note", "kept from PyTorch by CUDA_VISIBLE_DEVICES=''", "Unset CUDA_VISIBLE_DEVICES", "no-gpu"),
    "full disk": ("failure", "No space left on device", "Free some space", "disk-full"),
    "nearly full disk": ("failure", "too little for a run", "Free some space", "disk-full"),
    "little room": ("warning", "checkpoints of gpt2-124m take", "--save_total_limit", "disk-full"),
    "unwritable": ("failure", "Permission denied", "that you may write to", "disk-full"),
    "slow disk": ("warning", "slow", "local disk", "slow-disk"),
    "low ulimit": ("warning", "256 open files", "ulimit -n", "system-limits"),
    "small shm": ("warning", "64 MiB", "--shm-size", "system-limits"),
}
#: Real on a CPU, too: all but what is about cards.
REAL = ("full disk", "nearly full disk", "little room", "unwritable", "slow disk", "low ulimit", "small shm")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_planted_fault_is_found_and_nothing_else(fault: str, tmp_path, capsys):
    level, words, remedy, see = FAULTS[fault]
    code, [found] = examined(planted(tmp_path)[fault](), capsys)
    assert (found["level"], code) == (level, 7 if level == "failure" else 0)
    assert words in found["text"]
    assert remedy in found["remedy"]
    assert found["see"] == f"docs/troubleshooting.md#{see}"
    assert found["checked_on"] == ("a real machine" if fault in REAL else "simulated machines only")


def test_every_planted_fault_is_expected(tmp_path):
    assert set(planted(tmp_path)) == set(FAULTS)


def test_a_driver_within_two_releases_is_not_old(tmp_path, capsys):
    machine = with_amd(tmp_path)
    for version, warned in (("6.12.12", False), ("6.10.5", True), ("5.18.13", True), ("", False)):
        put(machine, {"sys/module/amdgpu/version": version})
        assert [len(examined(machine, capsys)[1])] == [warned], version


@pytest.mark.parametrize(("target", "needed"), [(100300, False), (100301, True), (100306, True), (90006, False), (100302, True)])
def test_the_override_is_for_rdna2_without_kernels_of_its_own(target, needed, tmp_path, capsys):
    code, found = examined(with_amd(tmp_path, target=target), capsys)
    assert (code, len(found)) == ((7, 1) if needed else (0, 0))


@pytest.mark.parametrize("target", [100300, 100301, 100306])
def test_the_right_override_on_an_rdna2_card_is_silent(target, tmp_path, capsys):
    machine = with_amd(tmp_path, target=target, environment={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"})
    assert examined(machine, capsys) == (0, [])


def test_kernels_for_the_very_card_need_no_override(tmp_path, capsys):
    facts = ROCM | {"architectures": ["gfx1030", "gfx1031"]}
    assert examined(with_amd(tmp_path, target=100301, child=child(facts)), capsys) == (0, [])


def with_integrated(machine: Machine, target: int = 100306) -> Machine:
    """Beside what is plugged in, the small GPU of an AMD processor."""
    put(machine, {"sys/class/kfd/kfd/topology/nodes/2/properties": f"simd_count 4\ngfx_target_version {target}\n"})
    return plug(machine, RADEON)


def test_an_integrated_gpu_without_kernels_is_no_reason_to_misname_the_card_beside_it(tmp_path, capsys):
    """The override is for all cards at once: with it the other one would compute wrongly."""
    small = {**ROCM["devices"][0], "name": "AMD Radeon Graphics gfx1036", "architecture": "gfx1036"}
    machine = with_integrated(with_amd(tmp_path, child=child(ROCM | {"devices": [*ROCM["devices"], small]})))
    code, [found] = examined(machine, capsys)
    assert (code, found["level"]) == (0, "note")
    assert "gfx1036 has no kernels in PyTorch 2.13.0+rocm7.1, and gfx1100 has" in found["text"]
    assert "export HIP_VISIBLE_DEVICES=0" in found["remedy"]
    assert "HSA_OVERRIDE_GFX_VERSION" not in found["remedy"]
    # Hidden, it is no matter; and the override is warned of.
    assert examined(replace(machine, child=child(ROCM)), capsys) == (0, [])
    _, [found] = examined(replace(machine, environment={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}), capsys)
    assert (found["level"], "the card is gfx1100" in found["text"]) == ("warning", True)


def test_a_card_that_needs_the_override_gets_it_beside_an_integrated_gpu_without_kernels(tmp_path, capsys):
    machine = with_integrated(with_amd(tmp_path, target=100301), target=110003)
    code, [found] = examined(machine, capsys)
    assert (code, "export HSA_OVERRIDE_GFX_VERSION=10.3.0" in found["remedy"]) == (7, True)
    assert examined(replace(machine, environment={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}), capsys) == (0, [])


def test_a_gpu_that_stays_outside_of_the_container_is_a_warning_where_training_works(tmp_path, capsys):
    """The same machine, with and without a training that came out well."""
    trained = {"subject": "training", "level": "ok", "text": "", "remedy": "", "see": "", "simulated": False}
    for answers, told in (({"training": [{"finding": trained}]}, (0, "warning")), ({}, (7, "failure"))):
        machine = plug(healthy(tmp_path, child=child(CUDA | BLIND, **answers)), NVIDIA)
        code, [found] = examined(machine, capsys)
        assert (code, found["level"]) == told
        assert "--gpus all" in found["remedy"]


def test_the_administrator_needs_no_group(tmp_path, capsys):
    machine = with_amd(tmp_path, groups=frozenset(), user=0, child=child(ROCM | BLIND))
    [found] = examined(machine, capsys)[1]
    assert "driver is loaded" in found["text"]


def test_a_card_that_is_seen_needs_no_group_either(tmp_path, capsys):
    assert examined(with_amd(tmp_path, groups=frozenset()), capsys) == (0, [])


def test_kernels_of_another_major_version_do_not_run(tmp_path, capsys):
    code, [found] = examined(with_nvidia(tmp_path, child=child(CUDA | {"architectures": ["sm_75", "compute_90"]})), capsys)
    assert (code, found["see"]) == (7, "docs/troubleshooting.md#invalid-device-function")


def test_kernels_of_an_earlier_minor_version_run(tmp_path, capsys):
    for architectures in (["sm_80"], ["sm_75", "compute_75"]):
        machine = with_nvidia(tmp_path / str(len(architectures)), child=child(CUDA | {"architectures": architectures}))
        assert examined(machine, capsys) == (0, [])


# Packages.


def test_a_clash_is_found(tmp_path, capsys):
    machine = healthy(tmp_path)
    install(Path(machine.packages[0]), "optimum-onnx", "0.1.0", ("numpy<2.1", "torch<2; extra == 'all'", "absent<1"))
    code, [found] = examined(machine, capsys)
    assert (code, found["level"]) == (0, "warning")
    assert "optimum-onnx 0.1.0 wants numpy<2.1; numpy is 2.4.0" in found["text"]


def test_what_llmforge_wants_is_compared_with_what_is_there(tmp_path, capsys):
    packages = tmp_path / "packages"
    wanted = ("torch>=2.13,<2.15", "numpy>=2", "gone>=1", "elsewhere>=1; sys_platform == 'win32'")
    install(packages, "llmforge", "0.1.0", wanted)
    install(packages, "torch", "2.15.0")
    install(packages, "numpy", "2.4.0")
    code, found = examined(healthy(tmp_path), capsys)
    assert code == 7
    assert [(item["level"], item["text"]) for item in found] == [
        ("failure", "not installed, and llmforge needs them: gone"),
        ("warning", "torch 2.15.0 is installed, and llmforge 0.1.0 wants <2.15,>=2.13."),
    ]


def test_a_build_of_the_right_version_is_right(tmp_path, capsys):
    assert examined(healthy(tmp_path), capsys) == (0, [])  # of 2.13.0+cpu


def test_a_missing_extra_is_noted_with_its_command(tmp_path, capsys):
    packages = tmp_path / "packages"
    extras = ("gcsfs>=2026.2; extra == 'gcs'", "s3fs; extra == 's3'", "nox; extra == 'dev'")
    install(packages, "llmforge", "0.1.0", extras, ("gcs", "s3", "dev"))
    install(packages, "s3fs", "2026.2")
    code, [found] = examined(healthy(tmp_path), capsys)
    assert (code, found["level"]) == (0, "note")
    assert found["text"] == "not installed: gcs (lacks gcsfs)"
    assert "pip install 'llmforge[gcs]'" in found["remedy"]


def test_a_folder_that_is_not_installed_is_noted(tmp_path, capsys):
    (tmp_path / "packages").mkdir()
    code, [found] = examined(healthy(tmp_path), capsys)
    assert (code, found["level"]) == (0, "note")
    assert "not installed" in found["text"]


# Processes that go wrong.


def test_a_crash_by_a_signal_is_a_finding(tmp_path, capsys):
    source = (
        "import json, os; print(json.dumps({'begin': 'numerics'})); print(json.dumps({'doing': 'softmax in bf16'}), flush=True)"
    )
    machine = healthy(tmp_path, child=python(f"{source}; import signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    code, found = examined(machine, capsys)
    assert code == 7
    assert found[0]["text"] == "softmax in bf16 crashed the process (SIGSEGV)."
    assert found[1]["text"] == "left out for the failure above: stack, speed, trackers, training"


def test_a_missing_instruction_is_told_apart(tmp_path, capsys):
    machine = healthy(tmp_path, child=python("import os, signal; os.kill(os.getpid(), signal.SIGILL)"))
    code, found = examined(machine, capsys, quick=True)
    assert code == 7
    assert "SIGILL" in found[0]["text"]
    assert "lacks an instruction" in found[0]["remedy"]


def test_a_process_that_says_why_it_ends_is_quoted(tmp_path, capsys):
    machine = healthy(tmp_path, child=python("import sys; sys.exit('HIP error: invalid device function')"))
    code, found = examined(machine, capsys)
    assert code == 7
    assert "invalid device function" in found[0]["text"]
    assert found[0]["see"].endswith("#invalid-device-function")


def test_an_interpreter_that_is_not_there_is_a_finding(tmp_path, capsys):
    code, found = examined(healthy(tmp_path, child=(str(tmp_path / "no-python"),)), capsys)
    assert code == 7
    assert "no-python" in found[0]["text"]


def test_findings_of_the_other_process_count(tmp_path, capsys):
    wrong = {"subject": "numerics", "level": "failure", "text": "wrong", "remedy": "", "see": "wrong-numbers", "simulated": False}
    machine = healthy(tmp_path, child=child(numerics=[{"finding": wrong}]))
    code, [found] = examined(machine, capsys)
    assert (code, found["text"]) == (7, "wrong")


def test_a_training_that_wants_one_gpu_gets_it(tmp_path, capsys):
    """Several are refused in one process: it is started again and sees the first only."""
    source = """
import json, os, sys
for part in json.loads(sys.argv[1])["parts"]:
    print(json.dumps({"begin": part}))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if part == "stack":
        print(json.dumps({"torch": %r}))
    elif part == "training" and seen is None:
        print(json.dumps({"apart": "training"}))
    elif part == "training":
        text = f"one of them: {seen}"
        print(json.dumps({"finding": dict(subject="training", level="note", text=text, remedy="", see="", simulated=False)}))
    print(json.dumps({"end": part}))
"""
    facts = CUDA | {"devices": CUDA["devices"] * 2}
    machine = with_nvidia(tmp_path, child=python((source % facts).replace("None,", "None,")))
    code, [found] = examined(replace(machine, environment={"X": "1"}), capsys)
    assert (code, found["text"]) == (0, "one of them: 0")


# Heat, looked at after the work.


def test_heat_is_found(tmp_path, capsys):
    smi = "0, 93, 900, 1980, Active, Not Active\n1, 60, 1980, 1980, Not Active, Not Active\n"
    code, [found] = examined(with_nvidia(tmp_path / "n", run=lambda command: smi), capsys)
    assert (code, found["level"]) == (0, "warning")
    assert found["text"] == "GPU 0 is throttled at 93 °C: 900 of 1980 MHz."
    older = with_nvidia(tmp_path / "o", run=lambda command: None if "clocks_event" in " ".join(command) else smi)
    assert "throttled" in examined(older, capsys)[1][0]["text"]
    amd = with_amd(tmp_path / "a")
    sensor = "sys/class/drm/card1/device/hwmon/hwmon3/temp1_"
    put(amd, {f"{sensor}input": "97000\n", f"{sensor}crit": "100000\n"})
    assert "card1 is at 97 °C, critical is 100 °C" in examined(amd, capsys)[1][0]["text"]
    put(amd, {f"{sensor}input": "70000\n"})
    assert examined(amd, capsys) == (0, [])


def test_a_cpu_that_slows_down_while_it_works_is_found(tmp_path, capsys):
    machine = healthy(tmp_path)
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    put(machine, {counter: "7\n"})
    assert examined(machine, capsys) == (0, [])  # before this look, whenever

    def write(folder: Path, block: bytes, blocks: int) -> float:
        put(machine, {counter: "9\n"})
        return 0.001

    code, [found] = examined(replace(machine, write=write), capsys)
    assert (code, found["text"]) == (0, "The CPU slowed down 2 times for its temperature while it was tried.")


def test_little_memory_is_told_in_a_container_too(tmp_path, capsys):
    machine = healthy(tmp_path)
    put(machine, {"sys/fs/cgroup/memory.max": f"{2 * GIB}\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"})
    code, [found] = examined(machine, capsys)
    assert (code, found["level"]) == (0, "warning")
    assert "2.0 GiB of memory, 1.0 GiB free" in found["text"]
