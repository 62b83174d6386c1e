"""GPUs that the machine holds, and why PyTorch may not see them.

Found from what Linux tells below /sys and /proc. Everything here was tried on simulated machines only, and says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine

_NVIDIA, _AMD = "0x10de", "0x1002"
_MAKERS = {_NVIDIA: "NVIDIA", _AMD: "AMD"}
#: Display controllers, and AMD's processing accelerators (Instinct), by PCI class.
_DISPLAY, _ACCELERATOR = "0x03", "0x12"
#: CUDA's major version → the oldest driver it runs on. Source: NVIDIA, CUDA Compatibility, table 1.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
#: Version of the amdgpu module → the ROCm release that brought it, in order. Source: AMD's release notes.
_AMDGPU = {
    (6, 0): "5.5",
    (6, 1): "5.6",
    (6, 2): "5.7",
    (6, 3): "6.0",
    (6, 7): "6.1",
    (6, 8): "6.2",
    (6, 10): "6.3",
    (6, 12): "6.4",
    (6, 14): "7.0",
    (6, 16): "7.1",
}
#: A driver works with user space that is so many releases newer. Source: AMD's user and kernel-space support matrix.
_RELEASES_APART = 2
_RDNA2 = re.compile(r"gfx103[0-6]")
#: What RDNA2 cards other than gfx1030 have to pass for: ROCm's libraries have no kernels of their own for them.
_OVERRIDE, _STAND_IN = "HSA_OVERRIDE_GFX_VERSION", "10.3.0"

finding = functools.partial(Finding, "gpu", simulated=True)


@dataclass(frozen=True)
class Torch:
    """What the installed PyTorch is and sees; made in another process.

    Attributes:
        version: With its build, ``2.13.0+cpu``.
        cuda: CUDA version of the build, None for others.
        hip: ROCm version of the build, None for others.
        devices: Devices that it sees, each with ``name``, ``kind``, ``memory``, ``half`` and ``architecture``.
        architectures: That the build has kernels for.
        said: What it warned of when it looked for devices.
    """

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    devices: tuple[dict[str, Any], ...] = ()
    architectures: tuple[str, ...] = ()
    said: str = ""

    @property
    def maker(self) -> str | None:
        """PCI number of the maker whose cards the build is for."""
        return _AMD if self.hip else _NVIDIA if self.cuda else None

    @property
    def sees_gpu(self) -> bool:
        """Whether there is a GPU for it to train on."""
        return any(device["kind"] != "cpu" for device in self.devices)


def look_at_cards(machine: Machine, torch: Torch) -> Iterator[Finding]:
    """What keeps PyTorch from the cards of this machine, and what would make them compute wrongly."""
    cards = _cards(machine)
    hidden = next((name for name in _HIDING if machine.environment.get(name) in ("", "-1")), None)
    if cards and hidden and not torch.sees_gpu:
        value = machine.environment[hidden]
        text = f"{_named(cards)} on the PCI bus, kept from PyTorch by {hidden}={value!r}."
        yield finding("note", text, f"Unset {hidden} to use it.", "no-gpu")
    elif cards and not torch.sees_gpu:
        yield from _unseen(machine, torch, cards)
    elif not cards and not torch.sees_gpu:
        yield from _absent(machine, torch)
    elif cards:
        yield finding("ok", f"{_named(cards)} on the PCI bus, {_driver(machine, torch)}")
        for problem, remedy in _old_amd(machine, torch):
            yield finding("warning", problem, remedy, "no-gpu")
    if _AMD in cards or torch.hip or _OVERRIDE in machine.environment:
        yield from _override(machine, torch)
    yield from _kernels(torch)


#: Variables that hide cards.
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def _cards(machine: Machine) -> list[str]:
    """The maker of each NVIDIA or AMD card on the PCI bus."""
    found = []
    for device in machine.find("sys/bus/pci/devices/*"):
        place = str(device.relative_to(machine.root))
        maker, kind = machine.read(f"{place}/vendor"), machine.read(f"{place}/class")
        if maker in _MAKERS and (kind.startswith(_DISPLAY) or (maker == _AMD and kind.startswith(_ACCELERATOR))):
            found.append(maker)
    return found


def _named(cards: list[str]) -> str:
    counts = {maker: cards.count(maker) for maker in cards}
    return " and ".join(f"{count} {_MAKERS[maker]} GPU{'s' * (count > 1)}" for maker, count in counts.items())


def _driver(machine: Machine, torch: Torch) -> str:
    if torch.hip:
        return f"amdgpu driver {machine.read('sys/module/amdgpu/version') or 'of the Linux kernel'}"
    driver = _nvidia_driver(machine)
    return f"driver {driver[0]}.{driver[1]:02d}" if driver else "a driver that tells no version"


def _unseen(machine: Machine, torch: Torch, cards: list[str]) -> Iterator[Finding]:
    """There is a card and PyTorch trains on the CPU: why."""
    there = _named(cards)
    if torch.maker is None or torch.maker not in cards:
        maker = cards[0]
        build = f"the build of PyTorch ({torch.version}) is for {'the CPU' if torch.maker is None else _MAKERS[torch.maker]}"
        driver = _nvidia_driver(machine)
        index = "rocm7.2" if maker == _AMD else "cu126" if driver and driver[0] < _OLDEST_DRIVER[13] else "cu130"
        remedy = f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index} "
        remedy += f"(or the index that pytorch.org names for your {'driver' if maker == _NVIDIA else 'ROCm'})"
        yield finding("warning", f"{there} on the PCI bus, and {build}.", remedy, "no-gpu")
        return
    reasons = list(_missing_groups(machine)) if torch.maker == _AMD else []
    reasons += _old_nvidia(machine, torch) if torch.maker == _NVIDIA else _old_amd(machine, torch)
    if not reasons:
        reasons = [_no_driver(machine, torch, there)]
    for reason in reasons:
        yield finding("failure", reason[0], f"{reason[1]} To train on the CPU all the same, set {_hide(torch)}.", "no-gpu")


def _hide(torch: Torch) -> str:
    return "HIP_VISIBLE_DEVICES=-1" if torch.hip else "CUDA_VISIBLE_DEVICES=-1"


def _no_driver(machine: Machine, torch: Torch, there: str) -> tuple[str, str]:
    loaded = machine.has("proc/driver/nvidia/version") if torch.cuda else machine.has("dev/kfd")
    what = "NVIDIA driver" if torch.cuda else "amdgpu driver with /dev/kfd"
    said = f" ({torch.said.splitlines()[0][:160]})" if torch.said else ""
    if not loaded:
        return f"{there} on the PCI bus, and no {what} is loaded{said}.", f"Install and load the {what}; a container needs " + (
            "--gpus all." if torch.cuda else "--device /dev/kfd --device /dev/dri."
        )
    tool = "nvidia-smi" if torch.cuda else "rocminfo"
    return (
        f"{there} on the PCI bus and the driver is loaded, but PyTorch {torch.version} sees none{said}.",
        f"See what {tool} says.",
    )


def _missing_groups(machine: Machine) -> Iterator[tuple[str, str]]:
    nodes = [name for name in ("dev/kfd", "dev/dri") if machine.has(name)]
    missing = sorted({"render", "video"} - machine.groups)
    if machine.user != 0 and nodes and missing:
        text = f"/{nodes[0]} is there, and you are not in the group{'s' * (len(missing) > 1)} {' and '.join(missing)}."
        yield text, f'Run sudo usermod -aG {",".join(missing)} "$USER" and log in again.'


def _version(text: str) -> tuple[int, ...] | None:
    found = re.search(r"\b(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _nvidia_driver(machine: Machine) -> tuple[int, int] | None:
    # NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023
    found = re.search(r"\s(\d{3,4})\.(\d+)", machine.read("proc/driver/nvidia/version").partition("\n")[0])
    return (int(found[1]), int(found[2])) if found else None


def _old_nvidia(machine: Machine, torch: Torch) -> list[tuple[str, str]]:
    driver = _nvidia_driver(machine)
    needed = _OLDEST_DRIVER.get(int((torch.cuda or "0").split(".")[0]))
    if driver is None or needed is None or driver[0] >= needed:
        return []
    shown = f"{driver[0]}.{driver[1]:02d}"
    text = f"The NVIDIA driver is {shown}, and PyTorch {torch.version} (CUDA {torch.cuda}) wants {needed} or newer."
    fitting = max((cuda for cuda, oldest in _OLDEST_DRIVER.items() if oldest <= driver[0]), default=None)
    other = f", or a build of PyTorch for CUDA {fitting}" if fitting else ""
    return [(text, f"Install a newer driver{other}.")]


def _old_amd(machine: Machine, torch: Torch) -> list[tuple[str, str]]:
    """The driver of AMD's own packages; that of a Linux kernel tells no version."""
    version, wanted = _version(machine.read("sys/module/amdgpu/version")), _version(torch.hip or "")
    if version is None or wanted is None:
        return []
    releases = list(dict.fromkeys(_AMDGPU.values()))
    brought = [release for known, release in _AMDGPU.items() if known <= version]
    newer = [release for release in releases if _version(release) is not None and (_version(release) or ()) <= wanted]
    there = releases.index(brought[-1]) if brought else -1
    if not newer or releases.index(newer[-1]) - there <= _RELEASES_APART:
        return []
    driver = machine.read("sys/module/amdgpu/version")
    text = f"The amdgpu driver {driver} is that of ROCm {brought[-1] if brought else 'before 5.5'}, and PyTorch {torch.version} "
    return [(f"{text}is for ROCm {torch.hip}.", "Install a newer amdgpu driver, or a build of PyTorch for an older ROCm.")]


def _absent(machine: Machine, torch: Torch) -> Iterator[Finding]:
    """No card on the bus; in a virtual machine it may only not be passed through."""
    if "hypervisor" not in machine.read("proc/cpuinfo").split():
        return
    # Pip's own build is CUDA's; who took ROCm's, or has a driver loaded, expects a card.
    expected = bool(torch.hip) or machine.has("proc/driver/nvidia/version") or machine.has("dev/nvidiactl")
    yield finding(
        "warning" if expected else "note",
        "a virtual machine without a GPU on its PCI bus",
        "If the host has one, pass it through to this machine (PCI passthrough, or a machine type with a GPU).",
        "no-gpu",
    )


def _architectures(machine: Machine) -> list[str]:
    """AMD's names of the cards, as the driver tells them, whatever the override says."""
    found = []
    for path in machine.find("sys/class/kfd/kfd/topology/nodes/*/properties"):
        told = re.search(r"^gfx_target_version (\d+)$", machine.read(str(path.relative_to(machine.root))), re.MULTILINE)
        number = int(told[1]) if told else 0
        if number:  # of a CPU it is 0
            found.append(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}")
    return found


def _override(machine: Machine, torch: Torch) -> Iterator[Finding]:
    value, names = machine.environment.get(_OVERRIDE), _architectures(machine)
    rdna2 = [name for name in names if _RDNA2.fullmatch(name)]
    built = {name.partition(":")[0] for name in torch.architectures}  # without features, as in gfx90a:xnack-
    needing = [name for name in rdna2 if name != "gfx1030" and name not in built]
    able = [name for name in names if name in built]
    others = [name for name in able if name not in rdna2]  # the override is every card's
    if value and (others or not rdna2):
        card = f"the card is {(others or names)[0]}" if names else "there is no RDNA2 card"
        text = f"{_OVERRIDE}={value} is set, and {card}: kernels of another card compute wrongly or not at all."
        yield finding("warning", text, f"Run unset {_OVERRIDE}; it is for RDNA2 cards only.", "invalid-device-function")
    elif value and value != _STAND_IN:
        text = f"{_OVERRIDE}={value} is set, and {rdna2[0]} has to pass for gfx1030."
        remedy = f"Run export {_OVERRIDE}={_STAND_IN}."
        yield finding("warning", text, remedy, "invalid-device-function")
    elif needing and able and not value and torch.hip:  # an integrated GPU beside the card, say
        if any(device["architecture"] == needing[0] for device in torch.devices):
            text = f"{needing[0]} has no kernels in PyTorch {torch.version}, and {able[0]} has: hide the one without."
            remedy = f"Run export HIP_VISIBLE_DEVICES={names.index(able[0])}, {able[0]}'s number as rocminfo lists the GPUs."
            yield finding("note", text, remedy, "invalid-device-function")
    elif needing and not value and torch.hip:
        text = f"{needing[0]} has no kernels in PyTorch {torch.version}, but can use those of gfx1030."
        yield finding("failure", text, f"Run export {_OVERRIDE}={_STAND_IN} before training.", "invalid-device-function")


def _kernels(torch: Torch) -> Iterator[Finding]:
    """NVIDIA cards that the build has no kernels for."""
    ours = [name for name in torch.architectures if re.fullmatch(r"(sm|compute)_\d+[af]?", name)]
    for device in torch.devices if torch.cuda and ours else ():
        number = int(re.sub(r"\D", "", device["architecture"]) or 0)
        # Kernels run on cards of the same major version and a later minor one; compute_ is compiled for any later card.
        runs = [re.sub(r"\D", "", name) for name in ours if name.startswith("sm_")]
        same = any(int(name) // 10 == number // 10 and int(name) <= number for name in runs)
        later = any(int(re.sub(r"\D", "", name)) <= number for name in ours if name.startswith("compute_"))
        if number and not same and not later:
            text = f"{device['name']} is {device['architecture']}, and PyTorch {torch.version} has kernels for "
            text += f"{', '.join(ours)} only."
            remedy = "Install a build of PyTorch for this card (pytorch.org lists them)."
            yield finding("failure", text, remedy, "invalid-device-function")
