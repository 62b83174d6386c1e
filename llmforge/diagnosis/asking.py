"""Has the parts that may crash or hang done by another process, and hears it out within bounds."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from llmforge.diagnosis.findings import Finding, explained
from llmforge.diagnosis.machine import Machine
from llmforge.errors import Entry

#: Seconds of silence in each part: several times what a whole one takes on two busy cores. Several GPUs, kernels that are
#: compiled first and libraries on a cold network disk take longer, and tell what they are doing.
LIMITS = {"stack": 120.0, "numerics": 60.0, "speed": 60.0, "trackers": 60.0, "training": 120.0, "remote": 100.0}
#: All of a part may take so many times its bound, whatever it tells.
_IN_ALL = 10
#: What a crash of a part by these signals means, and the entry that says more.
_CRASHES: dict[str, tuple[str, Entry]] = {
    "SIGILL": ("The processor lacks an instruction that this build uses: install another one.", "invalid-device-function"),
    "SIGSEGV": ("A driver or a library is broken or does not fit: install the build that pytorch.org names for it.", ""),
    "SIGBUS": ("Shared memory or a disk was full: give /dev/shm more room.", "system-limits"),
    "SIGKILL": ("The system killed it, most likely for its memory: free some.", "out-of-memory"),
}
#: Messages that are handed on as they are.
_FACTS = ("torch", "apart")


def ask(
    machine: Machine,
    parts: Sequence[str],
    show: Callable[[str], None],
    limits: Mapping[str, float] = LIMITS,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Finding | dict[str, Any]]:
    """Have `parts` done, and yield what is found as it is found, and as mappings ``torch``, what it sees, and ``apart``, a part
    that wants a process to itself.

    A process that crashes or does not come to an end is a failure of the part it was in; the rest is left out then.

    Args:
        machine: Whose `child` is started.
        parts: As the child knows them.
        show: Is told what is being done.
        limits: Seconds of silence for each part.
        environment: Variables that are added to those of the machine.
        settings: For the child.
    """
    left = list(parts)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*machine.child, json.dumps({"parts": list(parts), **settings})],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={**machine.environment, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for this process, which ends the other one
            )
        except OSError as error:
            yield Finding(parts[0], "failure", f"{machine.child[0]} cannot be started: {error.strerror}.", "", "system-limits")
            return
        try:
            yield from _heard(process, left, show, limits, errors)
        finally:
            _end(process)


def _heard(
    process: subprocess.Popen[str], left: list[str], show: Callable[[str], None], limits: Mapping[str, float], errors: IO[bytes]
) -> Iterator[Finding | dict[str, Any]]:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), name="diagnosis", daemon=True).start()
    part, doing = left[0], "start"
    begun = heard = time.monotonic()
    skipped: list[str] = []
    while True:
        deadline = min(heard + limits[part], begun + _IN_ALL * limits[part])
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            endless = deadline < heard + limits[part]
            what, seconds = (part, _IN_ALL * limits[part]) if endless else (doing, limits[part])
            text = f"{what} did not come to an end in {seconds:.0f} s, and was stopped."
            yield Finding(part, "failure", text, "See whether the driver or a disk hangs.", "gpu-idle")
            yield from _left_out([name for name in left if name != part])
            return
        if line is None:
            break
        try:
            message = json.loads(line)
        except ValueError:  # written by a library, past the child's own channel
            continue
        if "begin" in message:
            part, doing = message["begin"], message["begin"]
            begun = heard = time.monotonic()
        elif "doing" in message:
            doing, heard = message["doing"], time.monotonic()
            show(doing)
        elif "finding" in message:
            yield Finding(**message["finding"])
        elif "end" in message:
            left.remove(message["end"])
        elif "skipped" in message:
            left.remove(message["skipped"])
            skipped.append(message["skipped"])
        else:
            yield from ({name: message[name]} for name in _FACTS if name in message)
    if left:
        yield _crash(part, doing, process.wait(), errors)
        skipped = [name for name in left if name != part]
    yield from _left_out(skipped)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    # Closed here and nowhere else: closing waits for whoever reads, and something that outlived the child may hold the other end.
    with process.stdout, contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _left_out(parts: Sequence[str]) -> Iterator[Finding]:
    if parts:
        yield Finding(parts[0], "note", f"left out for the failure above: {', '.join(parts)}")


def _crash(part: str, doing: str, code: int, errors: IO[bytes]) -> Finding:
    errors.seek(0)
    said = [line.strip() for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name
        remedy, see = _CRASHES.get(name, ("", ""))
        text = f"{doing} crashed the process ({name}){f': {said[-1][:160]}' if said else ''}."
        return Finding(part, "failure", text, remedy, see or "broken-installation")
    return explained(part, f"{doing} ended the process with code {code}: {said[-1] if said else 'nothing was said'}")


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and what it has started."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # where it had no group of its own
    process.wait()
