"""PYTHONPATH=.:tests python -m reliability.sweeps [ROW …] [--seed N] [--json]

The rows of the fault matrix that a random kill does not cover, at length: kills at every rename, removal
and sync, full disks, the order on power loss, damaged files, the clock, two processes, weights that are no
numbers. ``make chaos`` runs it. Each case ends with the run gone on with to its end and its weights compared
with the undisturbed run's, bit for bit. The exit code is 7 if anything failed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability.faults import (
    damages,
    disorder,
    fill,
    has_strace,
    killed_at_call,
    killed_at_syscall,
    on_a_disk_of,
    recorded,
)
from reliability.harness import At, differing, forked, go_on, training, unsound, weights

from llmforge.checkpoints.manifest import list_checkpoints, verify
from llmforge.checkpoints.resume import find_checkpoint
from llmforge.errors import CheckpointError, TrainingDiverged

STEPS = 3
PRESETS = ("gpt2-10m", "neox-10m")
#: Architecture, and whether checkpoints are saved in the background.
WAYS = [("gpt2-10m", True), ("gpt2-10m", False), ("neox-10m", True)]


@dataclass
class Result:
    """What a row came to: how many cases, and what was wrong."""

    cases: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, where: str, *problems: str) -> None:
        """One case more."""
        self.cases += 1
        self.faults += [f"{where}: {problem}" for problem in problems]


class Place:
    """Where cases are played: a folder, a tokenizer, a corpus, undisturbed runs to compare with, and a seed."""

    def __init__(self, root: Path, tokenizer: Any, corpus: Path, seed: int = 0):
        self.root, self.tokenizer, self.corpus = root, tokenizer, corpus
        self.source = random.Random(seed)
        self._made: dict[str, Any] = {}
        self._number = 0

    def folder(self) -> Path:
        """A new one."""
        self._number += 1
        made = self.root / f"case-{self._number}"
        made.mkdir(parents=True)
        return made

    def undisturbed(self, preset: str) -> dict[str, Any]:
        """The weights at the end of a run that nothing happens to."""
        if preset not in self._made:
            folder = self.folder()
            training(folder, self.tokenizer, preset, max_steps=STEPS).train()
            self._made[preset] = weights(folder, STEPS)
            shutil.rmtree(folder)
        return self._made[preset]

    def run(self, folder: Path, preset: str, background: bool = True, **changes: Any) -> Any:
        """Train to the end, from the newest sound checkpoint on."""
        return go_on(folder, self.tokenizer, preset=preset, max_steps=STEPS, saving={"async_save": background}, **changes)

    def judged(self, folder: Path, preset: str, background: bool = True) -> list[str]:
        """What is wrong after a fault: with what is committed, with going on, with the weights at the end."""
        problems = [f"{path.name}: {problem}" for path in list_checkpoints(folder) for problem in verify(path)]
        code = forked(lambda: self.run(folder, preset, background), quiet=True)
        if code:
            return [*problems, f"it could not be gone on with ({code})"]
        problems += differing(weights(folder, STEPS), self.undisturbed(preset)) + unsound(folder)
        shutil.rmtree(folder)
        return problems


# --- kills ----------------------------------------------------------------------------------------


def _at_every(kill: Callable[[int, Callable[[], object]], int], place: Place, numbers: list[int] | None, ways: list) -> Result:
    result = Result()
    for preset, background in ways:
        place.undisturbed(preset)
        number, code = 0, -signal.SIGKILL
        while code:
            number += 1
            if numbers is not None and number > len(numbers):
                break
            folder = place.folder()
            at = numbers[number - 1] if numbers else number

            def work(folder: Path = folder, preset: str = preset, background: bool = background) -> object:
                return place.run(folder, preset, background)

            code = kill(at, work)
            problems = [] if code in (0, -signal.SIGKILL) else [f"it ended with {code}"]
            result.add(f"{preset}, call {at}", *problems, *place.judged(folder, preset, background))
    return result


def calls(place: Place, numbers: list[int] | None = None, ways: list = WAYS) -> Result:
    """Killed before each rename, removal and sync that Python does while it saves and rotates."""
    return _at_every(killed_at_call, place, numbers, ways)


def system_calls(place: Place, kinds: tuple[str, ...] = ("rename", "renameat", "renameat2"), ways: list = WAYS[1:2]) -> Result:
    """Killed at system calls, each kind counted by itself: what Rust does besides Python is to rename safetensors' file."""
    result = Result()
    for name in kinds:
        found = _at_every(functools.partial(killed_at_syscall, name), place, None, ways)
        result.cases += found.cases
        result.faults += [f"{name} {fault}" for fault in found.faults]
    return result


def _prepare(place: Place, cache: Path) -> Any:
    from llmforge.configs.data import DataArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.data.prepare import prepare_dataset
    from llmforge.storage import files as storage

    os.environ["LLMFORGE_CACHE"] = str(cache)
    storage._UNCLAIMED_SECONDS = -1.0  # as a later start finds it
    return prepare_dataset(DataArguments(corpus=str(place.corpus), block_size=64), TokenizerArguments(vocab_size=400))


def _torn(place: Place, cache: Path) -> list[str]:
    """What is wrong with a cache in which the data is prepared once more after a fault."""
    expected = place._made.setdefault("prepared", {})
    if not expected:
        again = place.folder()
        forked(lambda: (again / "rows.json").write_text(_rows(place, again / "cache")))
        expected["rows"] = (again / "rows.json").read_text()
    told = cache.with_name(f"{cache.name}-rows.json")
    if forked(lambda: told.write_text(_rows(place, cache)), quiet=True):
        return ["it could not be prepared"]
    left = [path.name for path in cache.rglob(".*") if path.name.startswith((".partial", ".aside"))]
    return [*left, *([] if told.read_text() == expected["rows"] else ["other rows than undisturbed"])]


def _rows(place: Place, cache: Path) -> str:
    made = _prepare(place, cache)
    return json.dumps({"fingerprint": made.fingerprint, **{name: split.to_list() for name, split in made.dataset.items()}})


def cache_calls(place: Place, numbers: list[int] | None = None) -> Result:
    """Killed before each rename, removal and sync while data is prepared."""
    result, number, code = Result(), 0, -signal.SIGKILL
    while code and (numbers is None or number < len(numbers)):
        number += 1
        cache = place.folder() / "cache"
        at = numbers[number - 1] if numbers else number
        code = killed_at_call(at, lambda cache=cache: _prepare(place, cache))
        result.add(f"call {at}", *_torn(place, cache))
        shutil.rmtree(cache)
    return result


def cache_random(place: Place, cases: int = 10) -> Result:
    """Killed at random moments while data is prepared."""
    from reliability.harness import killed_after

    result = Result()
    began = time.monotonic()
    _torn(place, place.folder() / "cache")
    longest = (time.monotonic() - began) / 2
    for _ in range(cases):
        cache, seconds = place.folder() / "cache", place.source.uniform(0, longest)
        killed_after(seconds, lambda cache=cache: _prepare(place, cache), lambda: True)
        result.add(f"after {seconds:.2f} s", *_torn(place, cache))
        shutil.rmtree(cache)
    return result


# --- disks ----------------------------------------------------------------------------------------


def full_disk(place: Place, left: tuple[int, ...] | None = None) -> Result:
    """The disk becomes full while a run is gone on with and saves; it ends with exit code 5 or goes on, and later ends well."""
    from llmforge.errors import StorageError

    result = Result()
    sizes = left if left is not None else tuple(range(0, 1_000_001, 200_000))
    for preset, background in WAYS:
        place.undisturbed(preset)
        for size in sizes:

            def case(disk: Path, size: int = size, preset: str = preset, background: bool = background) -> None:
                def begun() -> None:
                    trainer = training(disk / "run", place.tokenizer, preset, max_steps=1, saving={"async_save": background})
                    trainer.train()

                assert forked(begun, quiet=True) == 0
                filler = fill(disk, size)

                def on() -> None:
                    try:
                        place.run(disk / "run", preset, background)
                    except StorageError:
                        os._exit(5)

                code = forked(on, quiet=True)
                assert code in (0, 5), f"it ended with {code}"
                assert list_checkpoints(disk / "run"), "the committed checkpoint is gone"
                filler.unlink()
                problems = place.judged(disk / "run", preset, background)
                assert problems == [], problems

            result.add(f"{preset}, {size} bytes left", *["see above"] * bool(on_a_disk_of(16 << 20, case)))
    return result


def full_cache(place: Place, sizes: tuple[int, ...] | None = None) -> Result:
    """The disk becomes full while data is prepared: one clear error, nothing half-written left, and later it works."""
    from llmforge.errors import StorageError

    result = Result()
    _torn(place, place.folder() / "cache")
    for left in sizes if sizes is not None else tuple(range(0, 400_001, 40_000)):

        def case(disk: Path, left: int = left) -> None:
            filler = fill(disk, left)

            def prepare() -> None:
                try:
                    _prepare(place, disk / "cache")
                except StorageError:
                    os._exit(5)

            code = forked(prepare, quiet=True)
            assert code in (0, 5), f"it ended with {code}"
            left_there = [path for path in (disk / "cache").rglob("*") if path.name.startswith((".partial", ".aside"))]
            assert left_there == []
            filler.unlink()
            problems = _torn(place, disk / "cache")
            assert problems == [], problems

        result.add(f"{left} bytes left", *["see above"] * bool(on_a_disk_of(8 << 20, case)))
    return result


def order(place: Place, ways: list = WAYS) -> Result:
    """Files are synced before they are renamed, and folders after it, as system calls tell."""
    result = Result()
    for preset, background in ways:
        folder = place.folder()
        log = folder.with_suffix(".log")
        code = recorded(lambda folder=folder, p=preset, b=background: place.run(folder, p, b), log)
        renames, faults = disorder(log, folder)
        result.add(preset, *faults, *[f"it ended with {code}"] * bool(code), *["nothing was seen"] * (renames < 2 * STEPS))
    return result


def cache_order(place: Place) -> Result:
    """The same of the cache."""
    result, folder = Result(), place.folder()
    log = folder.with_suffix(".log")
    code = recorded(lambda: _prepare(place, folder / "cache"), log)
    renames, faults = disorder(log, folder)
    result.add("prepare", *faults, *[f"it ended with {code}"] * bool(code), *["nothing was seen"] * (renames < 3))
    return result


# --- damage ---------------------------------------------------------------------------------------


def damage(place: Place, flips: int = 20, presets: tuple[str, ...] = PRESETS, train: int = 3) -> Result:
    """Every file of the newest checkpoint cut, changed, removed, and files more than there were: the older one is taken."""
    result = Result()
    for preset in presets:
        folder = place.folder()
        place.run(folder, preset)
        older, newest = list_checkpoints(folder)
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        cases = [(path, name, content) for path in files for name, content in damages(path, place.source, flips).items()]
        extra = ("pytorch_model.bin", ".hidden", "more/part", "model.safetensors.index.json")
        cases += [(newest / name, "extra", b"{}") for name in extra]
        chosen = {place.source.randrange(len(cases)) for _ in range(train)}
        for number, (path, name, content) in enumerate(cases):
            before = path.read_bytes() if path.exists() else None
            path.parent.mkdir(exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            problems = []
            try:
                found = find_checkpoint(folder)
                problems = [] if found == older else [f"{found} was taken"]
            except CheckpointError as error:
                problems = [str(error)]
            if number in chosen and not problems:
                copied = place.folder() / "run"
                shutil.copytree(folder, copied)
                problems = [line for line in place.judged(copied, preset) if not line.startswith(newest.name)]
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
            if path.parent != newest:
                path.parent.rmdir()
            result.add(f"{preset}, {path.name} {name}", *problems)
        if find_checkpoint(folder) != newest:
            result.faults.append(f"{preset}: what was mended is not taken")
        shutil.rmtree(folder)
    return result


def clock(place: Place, ways: list = WAYS) -> Result:
    """The clock is moved by a day, and marker files are written late into old checkpoints: rotation goes by step."""
    result = Result()
    for preset, background in ways:
        for seconds in (86_400.0, -86_400.0):
            for touched in (1, 2):
                folder, now = place.folder(), time.time

                def moved(folder: Path = folder, touched: int = touched, seconds: float = seconds, now: Any = now) -> None:
                    time.time = lambda: now() + seconds
                    for path in list_checkpoints(folder):
                        late = now() + seconds * (1 if path.name == f"checkpoint-{touched}" else -1)
                        (path / "marker").touch() if path.name == "checkpoint-1" else None
                        os.utime(path, (late, late))

                def work(folder: Path = folder, moved: Any = moved, preset: str = preset, background: bool = background) -> None:
                    trainer = training(folder, place.tokenizer, preset, max_steps=STEPS, saving={"async_save": background})
                    trainer.add_callback(At(2, lambda: (trainer.checkpoints.wait(), moved())))
                    trainer.add_callback(At(3, lambda: (trainer.checkpoints.wait(), moved())))
                    trainer.train()

                code = forked(work, quiet=True)
                kept = [path.name for path in list_checkpoints(folder)]
                wrong = [] if kept == ["checkpoint-2", "checkpoint-3"] else [f"{kept} were kept"]
                problems = place.judged(folder, preset, background)
                result.add(f"{preset}, {seconds:+.0f} s", *wrong, *[f"it ended with {code}"] * bool(code), *problems)
    return result


def not_finite(place: Place, ways: list = WAYS, steps: int = STEPS) -> Result:
    """A weight becomes NaN or infinite at step k: the run stops in that step, nothing of it is committed."""
    result = Result()
    for preset, background in ways:
        for step in range(1, steps + 1):
            for value in (math.nan, math.inf, -math.inf):
                folder = place.folder()

                def work(
                    folder: Path = folder, step: int = step, value: float = value, preset: str = preset, b: bool = background
                ) -> None:
                    import torch

                    trainer = training(folder, place.tokenizer, preset, max_steps=STEPS, saving={"async_save": b})

                    def poison() -> None:
                        with torch.no_grad():
                            weight = place.source.choice(list(trainer.model.parameters())).view(-1)
                            weight[place.source.randrange(len(weight))] = value

                    trainer.add_callback(At(step, poison))
                    try:
                        trainer.train()
                    except TrainingDiverged:
                        os._exit(6)

                code = forked(work, quiet=True)
                steps_there = [path.name for path in list_checkpoints(folder)]
                wrong = [f"{steps_there} are there"] * (
                    f"checkpoint-{step}" in steps_there or len(steps_there) != min(step - 1, 2)
                )
                wrong += [f"it ended with {code}"] * (code != 6)
                result.add(f"{preset}, {value} at step {step}", *wrong, *place.judged(folder, preset, background))
    return result


def two(place: Place, cases: int = 8) -> Result:
    """A second trainer in the folder, at a random moment, is refused; then the first is killed, and a third goes on."""
    from reliability.child_runs import Child, pretrain

    result, here = Result(), Path.cwd()
    arguments = ["--corpus", str(place.corpus), "--output_dir", "run", "--max_steps", "12", "--eval_strategy", "no"]
    arguments += ["--save_steps", "1", "--save_total_limit", "2"]
    os.environ["LLMFORGE_CACHE"] = str(place.root / "cache-of-two")
    expected = None
    for _ in range(cases + 1):
        folder = place.folder()
        os.chdir(folder)
        try:
            if expected is None:  # undisturbed
                assert Child(lambda: pretrain(*arguments), "first").wait() == 0
                expected = weights(folder / "run", 12)
                continue
            first = Child(lambda: pretrain(*arguments), "first")
            first.until("run/checkpoint-1/manifest.json")
            time.sleep(place.source.uniform(0, 0.3))
            running = first.poll() is None
            second = Child(lambda: pretrain(*arguments, "--resume"), "second")
            code, problems = second.wait(5), []
            if running and first.poll() is None and (code != 2 or "is in use by process" not in second.text()):
                problems.append(f"the second ended with {code}: {second.text()}")
            time.sleep(place.source.uniform(0, 0.3))
            first.kill()
            committed = list_checkpoints(folder / "run")
            problems += [f"{path.name}: {problem}" for path in committed for problem in verify(path)]
            third = Child(lambda: pretrain(*arguments, "--resume"), "third")
            problems += [third.text()] * bool(third.wait()) or differing(weights(folder / "run", 12), expected)
            result.add(folder.name, *problems)
        finally:
            os.chdir(here)
            shutil.rmtree(folder)
    return result


#: By name: phases of the matrix, what it needs, and the sweep.
ROWS: dict[str, tuple[str, bool, Callable[[Place], Result]]] = {
    "calls": ("S R", False, calls),
    "system_calls": ("S R", True, system_calls),
    "cache_calls": ("T", False, cache_calls),
    "cache_random": ("T", False, cache_random),
    "full_disk": ("S L", False, full_disk),
    "full_cache": ("T", False, full_cache),
    "order": ("S R", True, order),
    "cache_order": ("T", True, cache_order),
    "damage": ("L", False, damage),
    "clock": ("R", False, clock),
    "two": ("S R", False, two),
    "not_finite": ("S", False, not_finite),
}


def main() -> int:
    """Run and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; by default all")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", action="store_true", help="one JSON object a row")
    chosen = options.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    logging.getLogger("llmforge").setLevel(logging.ERROR)  # what is passed over is not what is looked for
    import matplotlib.figure  # noqa: F401  so that children need not import it
    from helpers import write_documents

    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.tokenization import load_pretrained, train_tokenizer

    failed = False
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        corpus = write_documents(root / "corpus")
        texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]
        train_tokenizer(texts, TokenizerArguments(vocab_size=400)).save(root / "tokenizer")
        tokenizer = load_pretrained(root / "tokenizer")
        for row in chosen.rows or ROWS:
            phases, needs_strace, sweep = ROWS[row]
            if needs_strace and not has_strace():
                print(f"{row}: left out, strace cannot be used here")
                continue
            began = time.monotonic()
            result = sweep(Place(root / row, tokenizer, corpus, chosen.seed))
            failed = failed or bool(result.faults)
            told = {"row": row, "phases": phases, "seed": chosen.seed, "cases": result.cases, "faults": result.faults}
            told["seconds"] = round(time.monotonic() - began)
            text = f"{row} ({phases}): {result.cases} cases, {len(result.faults)} failed, {told['seconds']} s"
            print(json.dumps(told) if chosen.json else "\n".join([text, *result.faults]), flush=True)
    return 7 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
