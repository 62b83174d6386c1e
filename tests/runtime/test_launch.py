"""Launchers, ranks, and the first process going first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmforge.errors import ConfigError, LlmforgeError
from llmforge.runtime import launch
from llmforge.runtime.launch import (
    RankZeroFirst,
    launcher_precision,
    refuse_missing_gpus,
    refuse_separate_worlds,
    use_all_cores,
)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch):
    """Makes this process the child of a launcher with the given command line and environment."""

    def install(*command: str, **environment: str) -> None:
        parent = SimpleNamespace(cmdline=lambda: ["python", *command], environ=lambda: environment)
        monkeypatch.setattr(launch, "_launcher", lambda: parent)

    return install


def test_without_a_launcher_there_is_one_process():
    assert (launch.world_size(), launch.rank(), launch.local_rank(), launch.local_world_size()) == (1, 0, 0, 1)


def test_launcher_says_who_is_who(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WORLD_SIZE": 4, "RANK": 3, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert (launch.world_size(), launch.rank(), launch.local_rank(), launch.local_world_size()) == (4, 3, 1, 2)


# Precision.


@pytest.mark.parametrize(("stated", "told"), [(None, None), ("bf16", "bf16"), ("fp16", "fp16"), ("no", None)])
def test_precision_in_the_environment(monkeypatch: pytest.MonkeyPatch, stated: str | None, told: str | None):
    monkeypatch.setattr(launch, "_launcher", lambda: None)
    if stated is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", stated)
    assert launcher_precision() == told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("accelerate", "launch", "--config_file", "a.yaml", "x.py"), "fp32"),
        (("accelerate", "launch", "--mixed_precision", "no", "x.py"), "fp32"),
        (("accelerate", "launch", "--mixed_precision=no", "x.py"), "fp32"),
        (("accelerate", "launch", "x.py"), None),  # its default, nobody's decision
    ],
)
def test_no_is_a_decision_only_where_somebody_took_it(
    launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...], told: str | None
):
    from accelerate.commands.config import config_args

    monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    launcher(*command)
    assert launcher_precision() == told


def test_default_config_of_accelerate_is_a_decision(launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from accelerate.commands.config import config_args

    (tmp_path / "default.yaml").touch()
    monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "default.yaml"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    launcher("accelerate", "launch", "x.py")
    assert launcher_precision() == "fp32"


# Cores.


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch is told, on a machine of eight cores."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(launch, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return told


@pytest.mark.parametrize(("processes", "share"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_each_process_gets_its_share_of_the_cores(launcher, threads: list[int], monkeypatch, processes: int, share: int):
    launcher("accelerate", "launch", "x.py")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    use_all_cores()
    assert threads == [share]


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (("accelerate", "launch"), {"OMP_NUM_THREADS": "1"}),
        (("accelerate", "launch", "--num_cpu_threads_per_process", "1"), {}),
        (("accelerate", "launch", "--num_cpu_threads_per_process=1"), {}),
    ],
)
def test_number_of_threads_that_the_user_gave_stays(launcher, threads: list[int], command: tuple[str, ...], environment: dict):
    launcher(*command, **environment)
    use_all_cores()
    assert threads == []


def test_threads_are_left_alone_without_a_launcher(threads: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "_launcher", lambda: None)
    use_all_cores()
    assert threads == []


# Separate worlds.


def arguments(world_size: int = 1, n_gpu: int = 0) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device("cpu"), world_size=world_size, n_gpu=n_gpu, use_cpu=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_that_found_each_other(monkeypatch: pytest.MonkeyPatch, processes: int):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    refuse_separate_worlds(arguments(processes))


def test_processes_that_are_each_alone_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes.*alone.*accelerate launch --multi_gpu --num_processes 2"):
        refuse_separate_worlds(arguments(1))


def test_one_process_for_two_gpus_is_refused():
    with pytest.raises(ConfigError, match=r"2 GPUs.*--num_processes 2.*CUDA_VISIBLE_DEVICES"):
        refuse_separate_worlds(arguments(1, n_gpu=2))


# GPUs that are not there.


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Makes PyTorch see so many GPUs, in a launch of so many processes on this machine."""

    def install(seen: int, processes: int = 1) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: seen > 0)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: seen)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        monkeypatch.setenv("WORLD_SIZE", str(processes))

    return install


def test_launch_for_gpus_that_are_not_there_is_refused(gpus, launcher, monkeypatch: pytest.MonkeyPatch):
    gpus(0, 2)
    launcher("accelerate", "launch", "--config_file", "ddp.yaml")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as accelerate hands gpu_ids on
    for check in (refuse_missing_gpus, refuse_separate_worlds):
        with pytest.raises(ConfigError, match=r"for GPU 0,1.*sees no GPU.*nvidia-smi.*cpu\.yaml"):
            check(arguments(2))


@pytest.mark.parametrize(
    ("value", "exported"), [(None, None), ("", None), ("0", "0")], ids=["not given", "empty", "exported by the user"]
)
def test_launch_that_names_no_gpu_may_use_the_cpu(gpus, launcher, monkeypatch: pytest.MonkeyPatch, value, exported):
    gpus(0, 2)
    launcher("accelerate", "launch", **({"CUDA_VISIBLE_DEVICES": exported} if exported else {}))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    refuse_missing_gpus(arguments(2))


def test_without_a_launcher_nothing_was_asked_for(gpus, monkeypatch: pytest.MonkeyPatch):
    gpus(0)
    monkeypatch.setattr(launch, "_launcher", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    refuse_missing_gpus(arguments())


@pytest.mark.parametrize(("seen", "processes", "use_cpu"), [(2, 2, False), (4, 2, False), (1, 1, False), (1, 2, True)])
def test_a_gpu_for_each_process(gpus, seen: int, processes: int, use_cpu: bool):
    gpus(seen, processes)
    refuse_missing_gpus(SimpleNamespace(use_cpu=use_cpu))


def test_more_processes_than_gpus_are_refused(gpus):
    gpus(1, 2)
    with pytest.raises(ConfigError, match=r"2 processes on this machine, but PyTorch sees 1 GPU\..*--num_processes 1"):
        refuse_missing_gpus(SimpleNamespace(use_cpu=False))


def test_one_process_that_sees_two_gpus_is_refused_before_anything_is_read(gpus):
    gpus(2)
    with pytest.raises(ConfigError, match=r"2 GPUs are visible.*--num_processes 2.*CUDA_VISIBLE_DEVICES"):
        refuse_missing_gpus(SimpleNamespace(use_cpu=False))
    refuse_missing_gpus(SimpleNamespace(use_cpu=True))


# The first process first.

CHILD = """
import sys, time
from pathlib import Path
from llmforge.errors import CheckpointError
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import rank, rank_zero_first

folder = Path(sys.argv[1])
first = rank_zero_first()

def work(name, answer):
    def run():
        (folder / f"{name}-by-{rank()}").touch()
        return answer
    return run

def slow():
    while not (folder / "other-is-waiting").exists():
        time.sleep(0.05)
    return work("slow", {"path": "naïve\\u2028", "n": [1, None]})()

def fail():
    raise CheckpointError("All are damaged.", "Train again.")

def main(argv):
    if rank():
        (folder / "other-is-waiting").touch()
    print(first(slow) == {"path": "naïve\\u2028", "n": [1, None]})
    print(first(work("second", 2)), first(work("none", None)))
    if sys.argv[2] == "error":
        first(fail)
    elif sys.argv[2] == "bug":
        first(lambda: 1 / 0)
    elif sys.argv[2] == "not-json":
        first(lambda: folder)
    (folder / f"done-{rank()}").touch()
    while not all((folder / f"done-{other}").exists() for other in (0, 1)):
        time.sleep(0.05)
    first.clear()

sys.exit(run_command(main))
"""


def run_two(folder: Path, ending: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of two processes with one parent, as a launcher starts them."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    processes = []
    for number in range(2):
        ranks = {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_PORT": "29501",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(folder), ending],
                env={**os.environ, **ranks, "TMPDIR": str(folder / "tmp")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_second_process_gets_the_results_of_the_first(tmp_path: Path):
    for code, output, errors in run_two(tmp_path / "run", "fine"):
        assert (code, errors) == (0, "")
        assert output.split() == ["True", "2", "None"]
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"slow-by-0", "second-by-0", "none-by-0"} <= made
    assert not any(name.endswith("-by-1") for name in made)
    assert list((tmp_path / "run" / "tmp").iterdir()) == []  # `clear` left nothing


def test_error_of_the_first_ends_both_with_its_exit_code(tmp_path: Path):
    first, second = run_two(tmp_path / "run", "error")
    assert (first[0], second[0]) == (4, 4)
    assert first[2] == "error: All are damaged. Train again.\n"
    assert second[2] == ""  # told once


@pytest.mark.parametrize("ending", ["bug", "not-json"])
def test_bug_in_the_first_does_not_leave_the_second_waiting(tmp_path: Path, ending: str):
    first, second = run_two(tmp_path / "run", ending)
    assert (first[0], second[0]) == (1, 1)
    assert "Traceback" in first[2]
    assert "Traceback" not in second[2]


def test_alone_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    first = RankZeroFirst()
    marker = object()
    assert first(lambda: marker) is marker
    first.clear()
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_the_launcher_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    first = RankZeroFirst()
    monkeypatch.setattr(os, "getppid", lambda: -1)
    with pytest.raises(LlmforgeError, match="launcher is gone"):
        first(lambda: None)


def test_another_launch_does_not_read_the_results_of_this_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    folders = set()
    for port in ("1", "2"):
        monkeypatch.setenv("MASTER_PORT", port)
        folders.add(RankZeroFirst()._folder)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    folders.add(RankZeroFirst()._folder)
    assert len(folders) == 3
