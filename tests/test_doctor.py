"""`llmforge doctor` as a user meets it: the real thing once, then its flags and its ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from simulated import healthy, put, python

from llmforge.cli import main
from llmforge.configs.doctor import DoctorArguments
from llmforge.diagnosis.machine import Machine
from llmforge.doctor import diagnose, parser
from llmforge.errors import CheckFailed


def test_this_machine_trains(capsys, tmp_path):
    """Everything for real: libraries, numerics, speed, disk, a store, a training with its checkpoint and its resume."""
    code = main(["doctor", "--json", "--output-dir", str(tmp_path / "runs"), "--remote", f"file://{tmp_path}/store"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (code, err, told["works"]) == (0, "", True), told
    levels = {finding["subject"]: finding["level"] for finding in told["findings"]}
    for subject in ("system", "python", "torch", "device", "numerics", "speed", "trackers", "training", "remote"):
        assert levels[subject] == "ok", told
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["torch.Tensor.softmax", "torch.optim.AdamW.step"])
def test_a_kernel_that_writes_zeros_is_found_from_end_to_end(operation, tmp_path, capsys):
    """In the real process, where only that kernel is another one."""
    source = f"""
import torch
owner, name = {operation.rpartition(".")[0]}, {operation.rpartition(".")[2]!r}
real = getattr(owner, name)
def zeros(*args, **kwargs):
    result = real(*args, **kwargs) if torch.is_tensor(args[0]) else None
    return result if result is None else torch.zeros_like(result)
setattr(owner, name, zeros)
from llmforge.diagnosis.child import main
main()
"""
    child = (sys.executable, "-c", source)
    machine = healthy(tmp_path, child=child, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    with pytest.raises(CheckFailed, match=r"numerics"):
        diagnose(DoctorArguments(), machine)
    out = capsys.readouterr().out
    assert "computes wrongly" in out
    assert "left out for the failure above: speed, training" in out


def test_a_machine_that_will_not_do_is_one_line_and_exit_7(tmp_path):
    machine = healthy(tmp_path, open_files=lambda: 64, child=python("import os, signal; os.kill(os.getpid(), signal.SIGABRT)"))
    with pytest.raises(CheckFailed, match=r"Training will not work here: 1 failure \(stack\)\.") as error:
        diagnose(DoctorArguments(quick=True), machine)
    assert error.value.exit_code == 7


def test_warnings_are_allowed(tmp_path, capsys):
    found = diagnose(DoctorArguments(quick=True), healthy(tmp_path, open_files=lambda: 64))
    assert [finding.level for finding in found].count("warning") == 1
    assert capsys.readouterr().out.endswith("Training will work here, with 1 warning. (0 s)\n")


def test_quick_leaves_out_what_takes_long(tmp_path, capsys):
    source = "import json, sys\nfor part in json.loads(sys.argv[1])['parts']:\n"
    source += "    found = dict(subject=part, level='ok', text='', remedy='', see='', simulated=False)\n"
    source += "    for message in ({'begin': part}, {'finding': found}, {'end': part}): print(json.dumps(message))"
    machine = healthy(tmp_path, child=python(source))
    quick = [finding.subject for finding in diagnose(DoctorArguments(quick=True), machine)]
    whole = [finding.subject for finding in diagnose(DoctorArguments(remote="s3://bucket/runs"), machine)]
    assert [name for name in whole if name not in quick] == ["speed", "training", "remote"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--remote", "bucket/runs"], "--remote bucket/runs is no URL"),
        (["--remote", "https://example.org/x"], "cannot be written to"),
        (["--remote"], "expected one argument"),
        (["--quik"], "--quik"),
    ],
)
def test_wrong_flags_are_one_line_before_anything_is_tried(words, said, capsys):
    assert main(["doctor", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_both_spellings_of_a_flag():
    assert parser().parse_args(["--output-dir", "x"]) == parser().parse_args(["--output_dir", "x"])


def test_help_does_not_need_the_libraries_that_may_be_broken(tmp_path):
    """Nor does anything of the process that the user starts: each of them is broken here."""
    for name in ("torch", "transformers", "numpy", "rich", "psutil", "tqdm", "platformdirs", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is half installed')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "llmforge", "doctor", "--quick", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert "numpy cannot be imported: ImportError: numpy is half installed" in done.stdout
    # The disk is a real one, which others may be using.
    said = re.fullmatch(
        r"error: Training will not work here: \d failures? \((.+)\)\. Each says above what to do\.\n", done.stderr
    )
    assert said is not None, done.stderr
    assert "packages" in said[1].split("; ")


def test_ctrl_c_ends_it_and_what_it_started(tmp_path):
    """While a device hangs."""
    note = tmp_path / "pid"
    (tmp_path / "numpy.py").write_text(f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "llmforge", "doctor", "--quick", "--output_dir", str(tmp_path)]

    def listen() -> None:  # what started the tests may ignore it, in a script's background, and a process inherits that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=environment, preexec_fn=listen)
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, "interrupted by Ctrl-C\n")
    status = Path(f"/proc/{note.read_text()}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_folder_in_which_a_run_goes_on_may_be_looked_at(tmp_path, monkeypatch, capsys):
    """Nothing is written there that stays."""
    asked = []
    monkeypatch.setattr("llmforge.runtime.commands.refuse_running", asked.append)
    monkeypatch.setattr("llmforge.doctor.examine", lambda machine, args, show: iter(()))
    assert main(["doctor", "--output_dir", str(tmp_path)]) == 0
    assert asked == []


def test_the_machine_is_read_as_it_is():
    machine = Machine()
    assert machine.read("proc/self/comm")
    assert machine.read("no/such/file") == ""
    assert machine.run([sys.executable, "-S", "-c", "print(6 * 7)"]) == "42\n"
    assert machine.run(["no-such-command"]) is None
    assert machine.run([sys.executable, "-S", "-c", "raise SystemExit(1)"]) is None
    assert {"torch", "numpy"} <= set(machine.distributions())
    put(Machine(root=Path("x")), {"proc/a": " b \n"})
    assert Machine(root=Path("x")).read("proc/a") == "b"
