"""The other process: heard out within bounds, and gone afterwards."""

from __future__ import annotations

import json
import os
import queue
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from simulated import healthy, python

from llmforge.diagnosis.asking import LIMITS, ask
from llmforge.diagnosis.child import PARTS, examine
from llmforge.diagnosis.findings import Finding, explained
from llmforge.diagnosis.machine import Machine

BEGIN = "import json, os, sys, time\nprint(json.dumps({'begin': 'numerics'}))\n"
BEGIN += "print(json.dumps({'doing': 'softmax'}), flush=True)\n"


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked after yet counts as gone."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_every_part_has_a_bound():
    assert set(LIMITS) == set(PARTS)
    assert all(0 < seconds <= 180 for seconds in LIMITS.values())


def test_a_hang_is_a_finding_and_is_ended(tmp_path):
    """What it had started is ended, too."""
    note = tmp_path / "pids"
    source = "import os, subprocess\nother = subprocess.Popen(['sleep', '600'])\n"
    source += f"open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{other.pid}}')\n{BEGIN}time.sleep(600)"

    class Short(dict):
        """A bound that is short once the process has begun, however long a busy machine takes for that."""

        def __missing__(self, part: str) -> float:
            return 1.0 if note.exists() else 60.0

    shown: list[str] = []
    start = time.monotonic()
    found = list(ask(healthy(tmp_path, child=python(source)), ["numerics", "training"], shown.append, Short()))
    assert time.monotonic() - start < 50
    assert [item.text for item in found] == [
        "softmax did not come to an end in 1 s, and was stopped.",
        "left out for the failure above: training",
    ]
    assert shown == ["softmax"]
    deadline = time.monotonic() + 5
    pids = [int(pid) for pid in note.read_text().split()]
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, pids))


class Told(queue.Queue):
    """Lines of the other process, each after some seconds of a clock of their own; afterwards nothing any more."""

    def __init__(self, messages: list[tuple[float, dict]], monkeypatch):
        super().__init__()
        self.left, self.now = list(messages), 1000.0
        monkeypatch.setattr("llmforge.diagnosis.asking.time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr("llmforge.diagnosis.asking.queue", SimpleNamespace(Queue=lambda: self, Empty=queue.Empty))

    def put(self, item, block: bool = True, timeout: float | None = None):
        """The real process has nothing to say."""

    def get(self, block: bool = True, timeout: float | None = None):
        if not self.left or self.left[0][0] > timeout:
            self.now += timeout
            raise queue.Empty
        seconds, message = self.left.pop(0)
        self.now += seconds
        return json.dumps(message)


def test_who_tells_what_it_is_doing_gets_its_time(tmp_path, monkeypatch):
    """Eight GPUs, say, or kernels that are compiled first: the bound is one on silence."""
    told = Told([(0, {"begin": "numerics"}), *((50, {"doing": f"GPU {number}"}) for number in range(8))], monkeypatch)
    told.left.append((50, {"end": "numerics"}))
    machine = healthy(tmp_path, child=python(""))
    told.left.append((0, {"begin": "speed"}))
    [found] = ask(machine, ["numerics", "speed"], lambda what: None, {"numerics": 60.0, "speed": 60.0})
    assert (found.text, told.now) == ("speed did not come to an end in 60 s, and was stopped.", 1000 + 9 * 50 + 60)


def test_who_tells_something_for_ever_is_stopped_all_the_same(tmp_path, monkeypatch):
    told = Told([(0, {"begin": "numerics"}), *((50, {"doing": f"round {number}"}) for number in range(999))], monkeypatch)
    [found] = ask(healthy(tmp_path, child=python("")), ["numerics"], lambda what: None, {"numerics": 60.0})
    assert (found.text, told.now) == ("numerics did not come to an end in 600 s, and was stopped.", 1600)


def test_the_bound_is_each_part_s_own(tmp_path):
    source = f"{BEGIN}print(json.dumps({{'end': 'numerics'}}))\n{BEGIN.replace('numerics', 'speed')}time.sleep(600)"
    start = time.monotonic()
    [found] = ask(
        healthy(tmp_path, child=python(source)), ["numerics", "speed"], lambda what: None, {"numerics": 60.0, "speed": 1}
    )
    assert time.monotonic() - start < 40
    assert (found.subject, found.text) == ("speed", "softmax did not come to an end in 1 s, and was stopped.")


def test_the_process_is_gone_when_nobody_listens_any_more(tmp_path):
    """As after Ctrl-C."""
    finding = "dict(subject='a', level='ok', text=str(os.getpid()), remedy='', see='', simulated=False)"
    source = f"{BEGIN}print(json.dumps({{'finding': {finding}}}), flush=True)\ntime.sleep(600)"
    answers = ask(healthy(tmp_path, child=python(source)), ["numerics"], lambda what: None)
    pid = int(next(answers).text)
    assert not gone(pid)
    answers.close()
    assert gone(pid)


def test_what_libraries_print_is_no_message(tmp_path):
    source = f"{BEGIN}print('Loading…')\nprint(json.dumps({{'end': 'numerics'}}))"
    assert list(ask(healthy(tmp_path, child=python(source)), ["numerics"], lambda what: None)) == []


def test_the_machine_s_variables_are_the_process_s(tmp_path):
    finding = "dict(subject='a', level='ok', text=os.environ['ONE'] + os.environ['TWO'], remedy='', see='', simulated=False)"
    source = f"{BEGIN}print(json.dumps({{'finding': {finding}}}))\nprint(json.dumps({{'end': 'numerics'}}))"
    machine = healthy(tmp_path, child=python(source), environment={"ONE": "1", "TWO": "2"})
    [found] = ask(machine, ["numerics"], lambda what: None, environment={"TWO": "3"})
    assert found.text == "13"


def test_a_part_that_raises_is_a_finding_and_the_others_go_on(monkeypatch):
    def fails(tell, settings):
        tell("at it")
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution")
        yield

    def works(tell, settings):
        yield Finding("trackers", "ok", "fine")

    monkeypatch.setitem(PARTS, "numerics", fails)
    monkeypatch.setitem(PARTS, "trackers", works)
    monkeypatch.setitem(PARTS, "training", works)
    written: list[dict] = []
    examine({"parts": ["numerics", "training", "trackers"]}, written.append)
    assert [next(iter(message)) for message in written] == [
        "begin",
        "doing",
        "finding",
        "end",
        "skipped",
        "begin",
        "finding",
        "end",
    ]
    wrong = Finding(**written[2]["finding"])
    assert wrong.level == "failure"
    assert wrong.text == "RuntimeError: CUDA error: no kernel image is available for execution"
    assert wrong.see == "invalid-device-function"


@pytest.mark.parametrize(("said", "see"), [
    ("CUDA out of memory. Tried to allocate 2 GiB", "out-of-memory"),
    ("HIP error: invalid device function", "invalid-device-function"),
    ("[Errno 28] No space left on device", "disk-full"),
    ("[Errno 24] Too many open files", "system-limits"),
    ("something that nobody knows", "broken-installation"),
    ("cannot import name 'nanmean' from 'x'", "broken-installation"),
])  # fmt: skip
def test_what_a_library_says_leads_to_its_entry(said: str, see: str):
    assert explained("numerics", said).see == see


def test_a_library_that_cannot_be_imported_is_a_finding(tmp_path):
    """The real process, with a torch in front of the real one that fails as a half-installed one does."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    paths = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    machine = healthy(tmp_path, child=Machine().child, environment={**os.environ, "PYTHONPATH": paths})
    found = list(ask(machine, ["stack", "numerics"], lambda what: None))
    assert [item.level for item in found] == ["failure", "note"]
    assert "torch cannot be imported: ImportError: libcudart.so.13" in found[0].text
    assert "pip install --force-reinstall torch" in found[0].remedy
