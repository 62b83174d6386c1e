"""The libraries that training stands on, imported one by one, and what PyTorch sees; for a process of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from llmforge.diagnosis.findings import Finding, explained
from llmforge.runtime.devices import Device, format_bytes, probe_device
from llmforge.runtime.precision import choose_precision


def _import_numpy() -> None:
    import numpy  # noqa: F401


def _import_torch() -> None:
    import torch  # noqa: F401


def _import_transformers() -> None:
    import transformers.trainer  # noqa: F401


def _import_accelerate() -> None:
    import accelerate  # noqa: F401


def _import_datasets() -> None:
    import datasets  # noqa: F401


def _import_peft() -> None:
    import peft  # noqa: F401


#: In this order: who fails for another one's sake is then not the first to be named.
_LIBRARIES: dict[str, Callable[[], None]] = {
    "numpy": _import_numpy,
    "torch": _import_torch,
    "transformers": _import_transformers,
    "accelerate": _import_accelerate,
    "datasets": _import_datasets,
    "peft": _import_peft,
}


def import_libraries(tell: Callable[[str], None]) -> Iterator[Finding]:
    """Import each library; the first that fails is a failure and the last to be tried.

    Args:
        tell: Is told what is tried next.
    """
    for name, load in _LIBRARIES.items():
        tell(f"import {name}")
        try:
            load()
        except BaseException as error:  # SystemExit, too: whatever a half-installed library does
            if isinstance(error, KeyboardInterrupt):
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())
            yield explained("packages", f"{name} cannot be imported: {said}", f"pip install --force-reinstall {name}")
            return
    yield from _numpy_in_torch()


def _numpy_in_torch() -> Iterator[Finding]:
    """Whether torch and numpy were built for one another."""
    import numpy as np
    import torch

    try:
        fine = float(torch.from_numpy(np.ones(3, dtype=np.float32)).sum()) == 3.0
        reason = "" if fine else "numbers change on the way between them"
    except RuntimeError as error:
        reason = str(error)
    if reason:
        text = f"torch {torch.__version__} cannot use numpy {np.__version__}: {' '.join(reason.split())[:160]}."
        yield Finding("packages", "failure", text, "pip install --upgrade numpy torch", "broken-installation")


def torch_facts() -> dict[str, Any]:
    """The fields of `Torch`: build, devices, architectures, and what PyTorch said when it looked for devices."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            devices = [_described(number, device) for number, device in enumerate(find_devices())]
            said = ""
        except Exception as error:  # a driver may fail in any way
            devices, said = [], f"{type(error).__name__}: {error}"
    said = "\n".join([said, *(str(item.message) for item in caught)]).strip()
    built = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "devices": devices,
        "architectures": built,
        "said": said,
    }


def find_devices() -> list[Device]:
    """Every device of the kind that a training takes: all GPUs, else the CPU."""
    import torch

    first = probe_device()
    if first.kind not in ("cuda", "rocm"):
        return [first]
    return [probe_device(number=number) for number in range(torch.cuda.device_count())]


def place_of(number: int, device: Device) -> Any:
    """The torch device that `device`, the one with this number, is."""
    import torch

    if device.kind == "cpu":
        return torch.device("cpu")
    return torch.device("cuda" if device.kind in ("cuda", "rocm") else device.kind, number)


def _described(number: int, device: Device) -> dict[str, Any]:
    import torch

    architecture = device.name.rpartition(" ")[2] if device.kind == "rocm" else ""
    if device.kind == "cuda":
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(number))
    return {**vars(device), "architecture": architecture}


def show_devices(facts: dict[str, Any]) -> Iterator[Finding]:
    """The torch build, and a line for each device."""
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['hip']}" if facts["hip"] else "built for the CPU"
    yield Finding("torch", "ok", f"PyTorch {facts['version']}, {build}")
    for values in facts["devices"]:
        device = Device(*(values[name] for name in ("kind", "name", "memory", "half")))
        native = f"{device.half} and fp32" if device.half else "fp32 only"
        trains = choose_precision("auto", None, device)
        extra = f" {values['architecture']}," if device.kind == "cuda" else ""
        text = f"{device.name},{extra} {format_bytes(device.memory)}; native {native}; trains in {trains}"
        yield Finding("device", "ok", text, simulated=device.kind != "cpu")
