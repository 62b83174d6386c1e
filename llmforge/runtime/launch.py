"""Launchers and ranks: what `accelerate launch` or `torchrun` says, and rank 0 going first.

Launchers speak by environment variables, in which a default looks like a decision
(``ACCELERATE_MIXED_PRECISION=no``, ``OMP_NUM_THREADS=1``). The launcher's own command
line tells the two apart.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import EXIT_PREEMPTED, ConfigError, LlmforgeError
from llmforge.runtime.devices import available_cores

if TYPE_CHECKING:
    from llmforge.configs.training import ForgeTrainingArguments

_POLL_SECONDS = 0.2


def world_size() -> int:
    """Processes of this launch, as its launcher says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process in the launch; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def _launcher() -> Any | None:
    """The launcher's process, if this one was started by one that can be looked at."""
    import psutil

    try:
        parent = psutil.Process().parent()
        command = " ".join(parent.cmdline()) if parent else ""
        return parent if any(word in command for word in ("accelerate", "torchrun", "torch.distributed")) else None
    except psutil.Error:
        return None


def launcher_pid() -> int | None:
    """Process id of the launcher that started this process; None without one."""
    if not any(name == "RANK" or name.startswith("ACCELERATE_") for name in os.environ):
        return None  # without a look at the parent, which takes time
    launcher = _launcher()
    return launcher.pid if launcher is not None else None


def launcher_precision() -> str | None:
    """The mixed precision that the launcher was told: ``fp32``, ``bf16``, ``fp16``, or None if it was told none."""
    stated = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if stated is None:
        return None
    if stated != "no":
        return stated
    launcher = _launcher()
    if launcher is None:
        return None
    command = " ".join(launcher.cmdline())
    if "--config_file" in command or "--mixed_precision" in command:
        return "fp32"
    from accelerate.commands.config.config_args import default_config_file

    return "fp32" if Path(default_config_file).exists() else None


def use_all_cores() -> None:
    """Give torch this process's share of the cores, where a launcher left it one by default.

    ``accelerate launch`` sets ``OMP_NUM_THREADS=1`` unless told otherwise. A value that
    the user exported, or one other than 1, is respected.
    """
    launcher = _launcher()
    if launcher is None or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    told = any(word.startswith("--num_cpu_threads_per_process") for word in launcher.cmdline())
    if told or "OMP_NUM_THREADS" in launcher.environ():
        return
    import torch

    torch.set_num_threads(max(1, available_cores() // local_world_size()))


def on_first_machine() -> bool:
    """Whether this process runs on the machine of rank 0; ranks are numbered machine by machine."""
    return rank() == local_rank()


def _launcher_gpus() -> str:
    """The GPUs that the launcher was told to use (``gpu_ids``, ``--gpu_ids``), as it hands them on; empty for none."""
    launcher = _launcher()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # A value that stood there before the launcher came was exported for other reasons.
    return given if launcher is not None and given != launcher.environ().get("CUDA_VISIBLE_DEVICES") else ""


def refuse_missing_gpus(args: ForgeTrainingArguments) -> None:
    """Refuse a launch for GPUs that this machine does not have, before anything is read or started.

    Without it the processes would go on on the CPU, or fail in the middle of the process
    group's start ("invalid device ordinal").

    Raises:
        ConfigError: The launch names GPUs and PyTorch sees none, it has more processes here than GPUs, or
            one process sees several GPUs.
    """
    import torch

    seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    wanted = _launcher_gpus()
    if wanted and not seen:
        raise ConfigError(
            f"The launch is for GPU {wanted}, but PyTorch {torch.__version__} sees no GPU here.",
            "See whether the driver (nvidia-smi, rocminfo) and the PyTorch build fit the card; "
            "for the CPU: accelerate launch --cpu (or accelerate_configs/cpu.yaml of the repository).",
        )
    if seen > 1 and not args.use_cpu and world_size() == 1:
        raise _data_parallel(seen)
    if seen and not args.use_cpu and local_world_size() > seen:
        raise ConfigError(
            f"The launch has {local_world_size()} processes on this machine, but PyTorch sees {seen} GPU{'s' * (seen > 1)}.",
            f"Launch with --num_processes {seen}: one process a GPU.",
        )


def refuse_separate_worlds(args: ForgeTrainingArguments) -> None:
    """Start the process group, and refuse a launch whose processes do not find one another.

    Raises:
        ConfigError: The launcher announced more processes than the process group has;
            each would train alone and write the same folder. Or its GPUs are not there.
    """
    refuse_missing_gpus(args)
    device = args.device
    if args.world_size != world_size():
        raise ConfigError(
            f"The launcher started {world_size()} processes, but each of them is alone (on {device}).",
            f"Launch with `accelerate launch --multi_gpu --num_processes {world_size()} …`, on a CPU too, or with one process.",
        )
    if args.n_gpu > 1:
        raise _data_parallel(args.n_gpu)


def _data_parallel(gpus: int) -> ConfigError:
    return ConfigError(
        f"{gpus} GPUs are visible, but there is one process; it would fall back to DataParallel.",
        f"Use `accelerate launch --multi_gpu --num_processes {gpus} …`, or set CUDA_VISIBLE_DEVICES to one.",
    )


class RankZeroFirst:
    """Runs things in the machine's first process only and hands the results to its others.

    Works before a process group exists, by files: preparing data may take longer than a
    process group waits. Results must be JSON.
    """

    def __init__(self) -> None:
        self.is_first = local_rank() == 0
        self.alone = local_world_size() == 1
        self._calls = 0
        self._folder = Path(tempfile.gettempdir()) / f"llmforge-{os.getuid()}-{self._launch_id()}"
        self._parent = os.getppid()

    @staticmethod
    def _launch_id() -> str:
        import psutil

        parent = psutil.Process().parent()
        started = int(parent.create_time() * 1000) if parent else 0
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a restarted launch has the same parent
        return f"{os.getppid()}-{started}-{os.environ.get('MASTER_PORT', '0')}-{attempt}"

    def __call__(self, function: Callable[[], Any]) -> Any:
        """`function`'s result, computed once on this machine.

        Raises:
            LlmforgeError: The first process's own error, in every process.
        """
        if self.alone:
            return function()
        self._calls += 1
        path = self._folder / f"{self._calls}.json"
        if not self.is_first:
            return self._wait(path)
        try:
            result = function()
            self._write(path, {"result": result})
        except LlmforgeError as error:
            self._write(path, {"problem": error.problem, "remedy": error.remedy, "exit_code": error.exit_code})
            raise
        except KeyboardInterrupt:
            problem = "The first process was asked to stop."
            self._write(path, {"problem": problem, "remedy": "", "exit_code": EXIT_PREEMPTED})
            raise
        except BaseException as error:
            self._write(path, {"problem": f"The first process failed: {error!r}.", "remedy": "", "exit_code": 1})
            raise
        return result

    def _write(self, path: Path, answer: dict[str, Any]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(answer), encoding="utf-8")
        os.replace(partial, path)

    def _wait(self, path: Path) -> Any:
        while not path.exists():
            if os.getppid() != self._parent:
                raise LlmforgeError("The launcher is gone.", "Start the run again.")
            time.sleep(_POLL_SECONDS)
        answer = json.loads(path.read_text(encoding="utf-8"))
        if "result" not in answer:
            error = LlmforgeError(answer["problem"], answer["remedy"])
            error.exit_code = answer["exit_code"]
            error.relayed = True
            raise error
        return answer["result"]

    def clear(self) -> None:
        """Remove the files; call it in the first process when all have read them."""
        if not self.alone and self.is_first:
            shutil.rmtree(self._folder, ignore_errors=True)


def in_notebook() -> bool:
    """Whether this is IPython or a notebook: an interrupt stops a cell there and not the process, and a bar is a widget."""
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


@functools.cache
def rank_zero_first() -> RankZeroFirst:
    """The one `RankZeroFirst` of this process; its calls are counted alike in every process."""
    return RankZeroFirst()
