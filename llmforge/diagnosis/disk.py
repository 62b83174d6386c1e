"""The disk that runs are written to: whether it can be written, how much room there is, how fast it is."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from llmforge.diagnosis.findings import Finding
from llmforge.diagnosis.machine import Machine
from llmforge.errors import Entry
from llmforge.models import PRESETS
from llmforge.runtime.devices import format_bytes
from llmforge.storage.files import is_disk_full

#: Seconds after which a disk counts as dead.
PATIENCE = 20.0
#: What is written to see how fast the disk is; twice as much as a checkpoint of the smallest run.
_BLOCK, _BLOCKS = 1 << 20, 32
#: Bytes a second at which that would take as long as a disk may.
_CRAWL = _BLOCK * _BLOCKS / PATIENCE
#: Below it not even the smallest run fits.
_NO_ROOM = 1 << 30
#: Bytes a second below which a disk holds training up, and seconds of one small sync.
_SLOW, _LONG = 20e6, 0.5
#: Parameters of the run that room is counted for, bytes of a checkpoint for each, and checkpoints at a time.
_USUAL, _BYTES, _KEPT = "gpt2-124m", 12, 4
#: File systems that are gone at the next start.
_VOLATILE = ("tmpfs", "ramfs")


def look_at_disk(machine: Machine, output_dir: str) -> Iterator[Finding]:
    """Room, and the speed of synced writes, where `output_dir` lies or will lie.

    Args:
        machine: To look at.
        output_dir: Folder of a run or of runs; it need not be there yet, and is not made.
    """
    asked = Path(output_dir).expanduser()
    folder = asked.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    shown = str(asked) if folder == asked.absolute() else f"{asked} (to be made in {folder})"
    if not folder.is_dir():
        yield _refused(f"{folder} is a file.", "Choose another --output_dir.", "disk-full")
        return
    answer = _within_patience(machine, folder)
    if answer is None:
        text = f"{shown} does not answer: nothing could be written in {PATIENCE:.0f} s."
        yield _refused(text, "See whether a network file system hangs, or choose another --output_dir.", "slow-disk")
        return
    if isinstance(answer, OSError):
        full = is_disk_full(answer)
        reason = answer.strerror or str(answer)
        remedy = "Free some space, or choose another --output_dir." if full else "Choose an --output_dir that you may write to."
        yield _refused(f"{shown} cannot be written: {reason}.", remedy, "disk-full")
        return
    small, rate = answer
    total, free = machine.room(folder)
    needed = int(_parameters() * _BYTES * _KEPT)
    told = (
        f"{rate / 1e6:,.0f} MB/s" if rate >= 1e7 else f"{rate / 1e6:.1f} MB/s" if rate else f"less than {_CRAWL / 1e6:.1f} MB/s"
    )
    text = f"{shown}: {format_bytes(free)} free of {format_bytes(total)}, {told} synced, {small * 1000:.1f} ms a sync"
    if free < _NO_ROOM:
        yield _refused(f"{text}; that is too little for a run.", "Free some space, or choose another --output_dir.", "disk-full")
    elif rate < _SLOW or small > _LONG:
        yield Finding("disk", "warning", f"{text}: slow.", "Choose a local disk, or save less often (--save_steps).", "slow-disk")
    elif free < needed:
        text += f"; {_KEPT} checkpoints of {_USUAL} take {format_bytes(needed)}"
        yield Finding("disk", "warning", text, "Free some space, or lower --save_total_limit.", "disk-full")
    else:
        yield Finding("disk", "ok", text)
    kind = _file_system(machine, folder)
    if kind in _VOLATILE:
        text = f"{folder} is in memory ({kind}): it is gone at the next start."
        yield Finding("disk", "note", text, "Choose another --output_dir.", "disk-full")


def _refused(text: str, remedy: str, see: Entry) -> Finding:
    return Finding("disk", "failure", text, remedy, see)


def _within_patience(machine: Machine, folder: Path) -> tuple[float, float] | OSError | None:
    """Seconds of a small synced write, and bytes a second of a large one, 0 where that does not end in time; what the
    system said instead; None where not even the small one comes back.
    """
    answers: queue.Queue[float | OSError] = queue.Queue()

    def write() -> None:
        try:
            answers.put(min(machine.write(folder, b"x" * 512, 1) for _ in range(3)))
            block = os.urandom(_BLOCK)
            one = machine.write(folder, block, 1)
            if one * _CRAWL > _BLOCK / 2:  # what would not be done in time is not begun
                answers.put(_BLOCK / one)
            else:
                answers.put(_BLOCK * _BLOCKS / max(machine.write(folder, block, _BLOCKS), 1e-9))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=write, name="disk", daemon=True).start()  # a process that waits for a dead disk cannot be stopped
    found: list[float] = []
    for _ in range(2):
        try:
            answer = answers.get(timeout=PATIENCE)
        except queue.Empty:
            return (found[0], 0.0) if found else None
        if isinstance(answer, OSError):
            return answer
        found.append(answer)
    return found[0], found[1]


def _parameters() -> int:
    preset = PRESETS[_USUAL]
    return 12 * preset.layers * preset.width**2 + (preset.vocab_size + preset.positions) * preset.width


def _file_system(machine: Machine, folder: Path) -> str:
    """What ``/proc/mounts`` calls the file system of `folder`."""
    best, kind = "", ""
    for line in machine.read("proc/mounts").splitlines():
        words = line.split()
        if len(words) > 2 and len(words[1]) >= len(best) and folder.resolve().is_relative_to(words[1]):
            best, kind = words[1], words[2]
    return kind
