"""The benchmarks still run; what they measure is told in docs/benchmarks.md."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in ("common", "sides"))
#: What a machine that has only torch, transformers and accelerate lacks.
EXTRAS = ("datasets", "evaluate", "tensorboard", "matplotlib", "pandas", "pyarrow", "rich", "platformdirs", "wandb")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import what stands beside them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_opens_with_a_command_and_measures_only_when_run(script: Path):
    names = runpy.run_path(str(script), run_name="imported")
    assert f"python benchmarks/{script.name}" in names["__doc__"].splitlines()[0]
    assert "--json" in names["__doc__"].splitlines()[0]


def run(script: str, *arguments: str, without: tuple[str, ...] = ()) -> dict:
    """What a benchmark prints as JSON, in a process that lacks some packages."""
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({without!r})); "
        f"sys.argv = {[script, *arguments, '--json']!r}; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); "
        f"runpy.run_path({str(ROOT / 'benchmarks' / script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_gpu_benchmark_needs_torch_transformers_and_accelerate_alone():
    """On a CPU with a tiny model: every side of it runs, and every figure has its row."""
    told = run("gpu.py", "--smoke", without=EXTRAS)
    assert [line for line in told["speed"] if "tokens_per_second" not in line] == []
    assert {line["side"] for line in told["speed"]} >= {"ours", "stock Trainer", "bare loop", "ours, Muon"}
    assert told["machine"]["torch"]


@pytest.mark.slow
def test_the_step_benchmark_has_its_ratios():
    told = run("step.py", "--rounds", "1", "--layers", "1", "--width", "64")
    assert min(told["ratio"], told["ratio_lean"], told["ratio_stock"]) > 0
    assert sum(told["parts"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_time_to_a_loss_is_told_with_its_goal():
    told = run("time_to_loss.py", "--steps", "8", "--learning_rates", "1e-3", "--shares", "0.5,1")
    assert told["goal"] > 0
    assert told["ratio"] is None or told["ratio"] > 0


@pytest.mark.slow
def test_the_benchmark_of_preparing_data_finds_the_same_ids():
    told = run("prepare.py", "--block", "128", "--vocabulary", "1000", "--sides", "run_clm,plain,parts")
    assert told["identical"]
    assert [told["sides"][side]["missing"] + told["sides"][side]["not_expected"] for side in ("plain", "parts")] == [0, 0]
    assert told["sides"]["run_clm"]["dropped_tokens"] > 0
    assert min(told["ratio"], told["memory_ratio"], told["mb_per_s"]) > 0


@pytest.mark.slow
def test_a_late_start_makes_few_calls_more():
    """One a batch that is passed over."""
    told = run("resume.py", "--rounds", "1", "--late", "1000")
    assert 1 <= told["ratio"]["ours"]["calls"] < 1.1
