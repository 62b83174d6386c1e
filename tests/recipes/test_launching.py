"""Every accelerate config: what accelerate makes of it, and what really happens with it on a machine without a GPU."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from helpers import ROOT, SAMPLES

CONFIGS = ROOT / "accelerate_configs"
#: Processes, machines, GPUs, mixed precision, and whether it is for the CPU.
INTENDED = {
    "cpu": (1, 1, None, "no", True),
    "cpu_ddp": (2, 1, "all", "no", False),  # the CPU is llmforge's doing: see the file
    "single_gpu_bf16": (1, 1, "0", "bf16", False),
    "single_gpu_fp16": (1, 1, "0", "fp16", False),
    "rocm_fp16": (1, 1, "0", "fp16", False),
    "ddp": (2, 1, "0,1", "fp16", False),
    "rocm_ddp_fp16": (2, 1, "0,1", "fp16", False),
    "multi_node": (4, 2, "all", "bf16", False),
    "fsdp": (2, 1, "0,1", "bf16", False),
}
TINY = shlex.split(
    "--preset gpt2-10m --n_layer 2 --n_embd 32 --n_head 2 --vocab_size 400 --block_size 64 --max_steps 2 --logging_steps 1"
    " --eval_strategy no --save_strategy no --report_to none --disable_tqdm --per_device_train_batch_size 4"
)
no_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="what happens on a machine without a GPU")


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    whole = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(command, env=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def launched(config: str, *options: str, verb: tuple[str, ...] = ("-m", "llmforge", "pretrain")) -> list[str]:
    return [tool("accelerate"), "launch", "--config_file", str(CONFIGS / f"{config}.yaml"), *options, *verb, *TINY]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, errors


def run_record(folder: str = "run") -> dict:
    return json.loads((Path(folder) / "run.json").read_text())


def parsed(config: str, *options: str):
    """What `accelerate launch` goes by: its flags over the file, as the command itself merges them."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS / f"{config}.yaml"), *options, "train.py"])
    return _validate_launch_command(arguments)[0]


def test_every_config_is_in_the_table():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(INTENDED)


@pytest.mark.parametrize("config", INTENDED)
def test_accelerate_reads_what_is_intended(config):
    processes, machines, gpus, precision, cpu = INTENDED[config]
    args = parsed(config)
    assert (args.num_processes, args.num_machines) == (processes, machines)
    assert (args.mixed_precision, bool(args.use_cpu)) == (precision, cpu)
    assert (args.multi_gpu or args.use_fsdp) == (processes > 1)
    if gpus is not None:
        assert args.gpu_ids == gpus


@pytest.mark.parametrize("config", INTENDED)
def test_the_first_line_is_a_command(config):
    """That launches this file, with a recipe and a config that exist."""
    text = (CONFIGS / f"{config}.yaml").read_text()
    words = shlex.split(text.splitlines()[0].removeprefix("# "))
    assert words[:4] == ["accelerate", "launch", "--config_file", f"accelerate_configs/{config}.yaml"]
    assert (ROOT / words[4]).is_file()
    if "--config" in words:
        assert (ROOT / "recipes/configs/pretrain_go" / f"{words[words.index('--config') + 1]}.yaml").is_file()
    # Only the CPU was tried, and the rest of the two single_gpu files says which cards they are for.
    assert config.startswith(("cpu", "single_gpu")) or "ot tried on hardware" in text


@pytest.mark.parametrize("config", ["ddp", "rocm_ddp_fp16"])
def test_two_gpus_are_two_processes_with_a_gpu_each(config):
    args = parsed(config)
    environment = prepare_multi_gpu_env(args)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "fp16"
    assert args.nproc_per_node == "2"
    assert int(args.master_port) > 0  # a free one: two runs do not meet


def test_flags_after_launch_win():
    assert parsed("ddp", "--mixed_precision", "bf16").mixed_precision == "bf16"
    _, environment = prepare_simple_launcher_cmd_env(parsed("single_gpu_bf16", "--gpu_ids", "1"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_two_machines_are_two_processes_each():
    args = parsed("multi_node", "--machine_rank", "1", "--main_process_ip", "10.0.0.5")
    prepare_multi_gpu_env(args)
    assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("2", "2", 1)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "10.0.0.5:29500")


@no_gpu
@pytest.mark.slow
def test_gpus_that_are_not_there_are_refused_in_one_line():
    """Not trained on the CPU, not told twice, and nothing is left behind."""
    code, errors = ended(start(*launched("ddp"), "--corpus", str(SAMPLES)))
    assert code == 1
    [line] = [line for line in errors.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: The launch is for GPU 0,1, but PyTorch {torch.__version__} sees no GPU")
    assert "accelerate_configs/cpu.yaml" in line
    assert not Path("runs").exists()


@pytest.mark.slow
@no_gpu
def test_torchrun_is_a_launcher_too():
    command = [tool("torchrun"), "--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "llmforge", "pretrain", *TINY]
    code, errors = ended(start(*command, "--corpus", str(SAMPLES), "--output_dir", "run"))
    assert code == 0, errors[-3000:]
    assert run_record()["processes"] == 2
    assert "8 rows" in Path("run/run.log").read_text()  # 4 a process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_machines(*arguments: str) -> list[tuple[int, str]]:
    """multi_node.yaml as on two machines, both of them this one, with a process each."""
    options = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    options += ["--mixed_precision", "no"]
    first = start(*launched("multi_node", *options, "--machine_rank", "0"), *arguments)
    second = start(*launched("multi_node", *options, "--machine_rank", "1"), *arguments)
    return [ended(first), ended(second)]


@pytest.mark.slow
@no_gpu
def test_two_launches_are_one_run():
    for code, errors in two_machines("--corpus", str(SAMPLES), "--output_dir", "run"):
        assert code == 0, errors[-3000:]
    assert run_record()["processes"] == 2
    assert json.loads(Path("run/exit.json").read_text())["exit_code"] == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]


#: What Slurm's commands do, as far as the template goes: every node is this machine.
SRUN = """#!/bin/bash
shift
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & started="${started:-} $!"; done
for one in $started; do wait "$one" || code=1; done
exit ${code:-0}
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> requeued; else printf '127.0.0.1\\nelsewhere\\n'; fi
"""


def slurm_port() -> int:
    """A free port among those that the template takes."""
    return next(port for port in iter(free_port, None) if 20_000 <= port < 60_000)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Runs the template as sbatch would, on two nodes."""
    for name, script in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    paths = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    settings = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": str(slurm_port() - 20_000)}
    settings |= {"PATH": os.pathsep.join(paths), "ACCELERATE_CONFIG": str(CONFIGS / "multi_node.yaml")}
    template = str(ROOT / "docs" / "how-to" / "slurm.sh")
    return lambda *words, **more: subprocess.run(
        [template, *words], env={**os.environ, **settings, **more}, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_slurm_template_wants_a_folder(slurm):
    told = slurm("recipes/pretrain_go.py")
    assert (told.returncode, told.stderr) == (2, "error: give --output_dir, a folder that all nodes see\n")


@pytest.mark.slow
@no_gpu
def test_the_slurm_template_is_one_run_of_two_nodes(slurm):
    words = [str(ROOT / "recipes" / "pretrain_go.py"), *TINY, "--corpus", str(SAMPLES), "--output_dir", "run", "--use_cpu"]
    told = slurm("--mixed_precision", "no", *words)
    assert told.returncode == 0, told.stdout[-1000:] + told.stderr
    assert run_record()["processes"] == 2
    assert not Path("requeued").exists()


def test_a_run_that_slurm_stopped_is_started_again(slurm, tmp_path):
    """And one that failed is not."""
    accelerate = tmp_path / "bin" / "accelerate"
    Path("run").mkdir()
    Path("run/exit.json").write_text('{"exit_code": 75}')  # of an earlier start; this one does not come so far
    for record, flag, requeued in (
        ("", "--output_dir=run", False),
        ("6", "--output-dir=run", False),
        ("75", "--output_dir=run", True),
    ):
        told = f"echo '{{\"exit_code\": {record}}}' > run/exit.json" if record else ""
        accelerate.write_text(f"#!/bin/bash\n{told}\nexit 1\n")
        accelerate.chmod(0o755)
        assert slurm("recipes/pretrain_go.py", flag, SLURM_JOB_ID="77").returncode == (0 if requeued else 1)
        assert Path("requeued").exists() == requeued
    assert Path("requeued").read_text() == "77\n"
