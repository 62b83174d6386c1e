"""python benchmarks/plan.py [--json]

The memory that `llmforge plan` predicts against what `llmforge pretrain` takes, each in a fresh process.

On a CPU the peak resident memory of the whole command: two steps, each with an evaluation and a checkpoint. Predicted
is a baseline plus the plan's peak without its allowance for the process. The baseline is measured: the same command with
a model of one layer of 16, less what the plan says of that one. `MALLOC_MMAP_THRESHOLD_=131072` makes glibc give back at once
what is freed, so that resident is what is held; `--plain` also measures without it, where glibc keeps freed
blocks it cannot use again. On a GPU (not tried) `max_memory_allocated` against the plan's peak without its allowance, on
emulated cards of `--cards` too: the largest micro-batch by the plan is trained with that share of the memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import parser, table, tell

#: What one row trains, by name: flags, and the length of its rows.
ROWS: dict[str, tuple[str, int]] = {
    "gpt2-10m, 4 × 512": ("--preset gpt2-10m --per_device_train_batch_size 4", 512),
    "gpt2-10m, 4 × 512, checkpointed": ("--preset gpt2-10m --per_device_train_batch_size 4 --activation_checkpointing", 512),
    "gpt2-50m, 4 × 256": ("--preset gpt2-50m --per_device_train_batch_size 4", 256),
    "gpt2-124m, 2 × 256": ("--preset gpt2-124m --per_device_train_batch_size 2", 256),
    "neox-10m, 4 × 512": ("--preset neox-10m --per_device_train_batch_size 4", 512),
    "neox-10m, 4 × 512, checkpointed": ("--preset neox-10m --per_device_train_batch_size 4 --activation_checkpointing", 512),
    "neox of 6 × 512, 4 × 256": (
        "--preset neox-160m --num_hidden_layers 6 --hidden_size 512 --num_attention_heads 8 --per_device_train_batch_size 4",
        256,
    ),
    "neox-160m, 2 × 256": ("--preset neox-160m --per_device_train_batch_size 2", 256),
}
TINY = "--preset gpt2-10m --n_layer 1 --n_embd 16 --n_head 1 --per_device_train_batch_size 1"
STEPS = "--max_steps 2 --eval_steps 1 --logging_steps 1 --report_to none --per_device_eval_batch_size 2 --max_eval_samples 2"
MMAP = {"MALLOC_MMAP_THRESHOLD_": "131072"}
#: The command, and on a GPU what it may take of it and what it took.
CHILD = """
import json, sys
import torch
from llmforge.cli import main
share, arguments = float(sys.argv[1]), sys.argv[2:]
if torch.cuda.is_available() and share < 1:
    torch.cuda.set_per_process_memory_fraction(share)
code = main(arguments)
if torch.cuda.is_available():
    print("peak", torch.cuda.max_memory_allocated())
sys.exit(code)
"""


def corpus(folder: Path) -> Path:
    """Made-up words, enough of them for a vocabulary of 50,257 entries."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 10))) for _ in range(60_000)]
    folder.mkdir()
    for number in range(300):
        picked = (words[min(int(source.paretovariate(0.6)), len(words) - 1)] for _ in range(source.randint(100, 3000)))
        (folder / f"{number}.txt").write_text(" ".join(picked), encoding="utf-8")
    return folder


class Bench:
    """Runs commands in `folder` and says what they took."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = corpus(folder / "corpus")
        self.data: dict[int, Path] = {}

    def dataset(self, block: int) -> Path:
        """Prepared rows: of 512 with 8,192 entries, of 256 with as many as the text has pairs for, up to 50,257."""
        if block not in self.data:
            size = "8192" if block == 512 else "50257"
            path = self.folder / f"rows-{block}"
            words = f"prepare --corpus {self.text} --block_size {block} --vocab_size {size} --min_frequency 1 --dedup off"
            self.run([*words.split(), "--output_dir", str(path)], {})
            self.data[block] = path
        return self.data[block]

    def run(self, words: list[str], environment: dict[str, str], share: float = 1.0) -> tuple[int, str]:
        """Peak resident bytes of the command in a process of its own, and what it printed."""
        log = self.folder / "log"
        with log.open("w", encoding="utf-8") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(share), *words],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LLMFORGE_CACHE": str(self.folder / "cache")} | environment,
                cwd=self.folder,
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text(encoding="utf-8")
        if child.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{text[-2000:]}")
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), text

    def plan(self, flags: str, block: int, *more: str) -> dict[str, Any]:
        """What `llmforge plan` says."""
        words = ["plan", "--json", "--dataset_dir", str(self.dataset(block)), *flags.split(), *STEPS.split(), *more]
        told = json.loads(self.run(words, {})[1].strip().splitlines()[-1])
        return dict(told["plans"][0])

    def trained(self, flags: str, block: int, environment: dict[str, str], share: float = 1.0) -> int:
        """Peak bytes of `llmforge pretrain`: resident, or on a GPU what torch had allocated."""
        out = tempfile.mkdtemp(dir=self.folder)
        words = [
            "pretrain",
            "--dataset_dir",
            str(self.dataset(block)),
            "--output_dir",
            f"{out}/run",
            *flags.split(),
            *STEPS.split(),
        ]
        resident, text = self.run(words, environment, share)
        told = [line for line in text.splitlines() if line.startswith("peak ") and line.split()[1].isdigit()]
        return int(told[-1].split()[1]) if told else resident


def above_process(plan: dict[str, Any]) -> int:
    """The plan's peak without its allowance."""
    return int(plan["memory"]["peak"] - plan["memory"]["allowance"])


def measure(bench: Bench, names: list[str], plain: bool) -> list[dict[str, Any]]:
    """A line a row."""
    gpu = _has_gpu()
    lines = []
    baselines: dict[int, int] = {}
    for name in names:
        flags, block = ROWS[name]
        if block not in baselines:
            tiny = 0 if gpu else bench.trained(TINY, block, MMAP)
            baselines[block] = 0 if gpu else tiny - above_process(bench.plan(TINY, block))
        plan = bench.plan(flags, block)
        measured = bench.trained(flags, block, {} if gpu else MMAP)
        predicted = baselines[block] + above_process(plan)
        line = {"name": name, "parameters": plan["parameters"], "baseline": baselines[block], "predicted": predicted}
        line |= {"measured": measured, "ratio": predicted / measured, "at": plan["memory"]["at"]}
        line["ratio_above"] = (predicted - baselines[block]) / (measured - baselines[block])
        if plain and not gpu:
            line["plain"] = bench.trained(flags, block, {})
        lines.append(line)
        print(json.dumps(line), file=sys.stderr, flush=True)  # as they come: all of them take a while
    return lines


def _has_gpu() -> bool:
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def emulate(bench: Bench, cards: list[str]) -> list[dict[str, Any]]:
    """On a GPU: the largest micro-batch by the plan, trained with so much of the memory; not tried."""
    code = "import torch; print(torch.cuda.get_device_properties(0).total_memory)"
    total = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    lines = []
    for card in cards:
        for preset in ("gpt2-124m", "neox-160m"):
            flags = f"--preset {preset} --per_device_train_batch_size 64 --device_memory {card}"
            plan = bench.plan(flags, 256)
            rows = plan["largest_micro_batch"]
            share = int(float(card.removesuffix("GiB")) * 2**30) / total
            taken = f"--preset {preset} --per_device_train_batch_size {rows} --gradient_accumulation_steps {64 // rows}"
            measured = bench.trained(taken, 256, {}, share)
            predicted = above_process(bench.plan(taken, 256))
            lines.append({"card": card, "preset": preset, "rows": rows, "predicted": predicted, "measured": measured})
            lines[-1]["ratio"] = predicted / measured
    return lines


def main() -> None:
    """Measure and print."""
    made = parser(__doc__)
    made.add_argument("--rows", help="only rows whose name has this in it")
    made.add_argument("--plain", action="store_true", help="also as it comes, without MALLOC_MMAP_THRESHOLD_")
    made.add_argument("--cards", default="8GiB,12GiB,24GiB", help="emulated cards, on a GPU")
    chosen = made.parse_args()
    names = [name for name in ROWS if chosen.rows is None or chosen.rows in name]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        lines = measure(bench, names, chosen.plain)
        cards = emulate(bench, chosen.cards.split(",")) if _has_gpu() else []
    head = ["", "parameters", "baseline", "predicted", "measured", "ratio", "ratio above the baseline"]
    head += ["as it comes"] if any("plain" in line for line in lines) else []
    body = [
        [
            line["name"],
            f"{line['parameters']:,}",
            *(f"{line[key] / 2**20:,.0f} MiB" for key in ("baseline", "predicted", "measured")),
            f"{line['ratio']:.3f}",
            f"{line['ratio_above']:.3f}",
            *([f"{line['plain'] / 2**20:,.0f} MiB"] if "plain" in line else []),
        ]
        for line in lines
    ]
    text = f"\n{table([head, *body])}"
    if cards:
        told = [
            [f"{line['preset']} on {line['card']}", *(str(line[key]) for key in ("rows", "predicted", "measured", "ratio"))]
            for line in cards
        ]
        text += f"\n\n{table([['', 'rows', 'predicted', 'measured', 'ratio'], *told])}"
    tell(chosen.json, {"rows": lines, "cards": cards}, text)


if __name__ == "__main__":
    main()
