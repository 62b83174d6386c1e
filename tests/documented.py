"""The fenced commands of README and docs: how each is run by tests/test_commands_run.py, and which are not, and why.

    python tests/documented.py      # how many there are, how many of them are run, and the others by reason

A command is run as it is written but for two things: what a reader has a value of their own for is stood in for, and what
would take long is cut short by further flags, since of two that say the same the later one holds.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
T = TypeVar("T")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: What a reader puts a value of their own for, and what is put here: made by `scratch` (tests/test_commands_run.py).
PLACEHOLDERS = {
    "recipes/pretrain_gutenberg.py --config 124m --corpus DIR": "recipes/pretrain_gutenberg.py --config 124m --corpus texts",
    "--tokenizer DIR": "--tokenizer tokenizer",
    "--dataset_dir DIR": "--dataset_dir dataset",
    "~/src/project": "project",
    "~/texts": "texts",
    "/usr/share/go-1.19/src/net": "project",
    "/usr/share/go-1.19/src": "project",
    "DIR": "project",
    "FILE": "held-out.txt",
    "BOOKS": "texts",
    "runs/mine 500 1000": "runs/mine 1 2",
    "checkpoint-200": "checkpoint-2",
}

GPU, GPUS, CLUSTER = "a GPU", "several GPUs", "a Slurm cluster"
INDEX, HUB, APT = "the package index", "a download", "root and apt"
#: What a machine with two cores and no network lacks.
ABSENT = (GPU, GPUS, CLUSTER, INDEX, HUB, APT)
#: What a command needs to be run, by the start of its line ($ is its end). These are parsed (tests/test_docs.py) and not run.
NEEDS = {
    "make setup": INDEX,
    "make wheel-test": INDEX,
    "make browser": APT,
    "make pretrain-rocm": GPU,  # with stand-ins for rocminfo and accelerate: tests/test_makefile.py
    "accelerate launch --config_file accelerate_configs/single_gpu": GPU,
    "accelerate launch --config_file accelerate_configs/rocm_fp16": GPU,
    "accelerate launch --config_file accelerate_configs/rocm_ddp": GPUS,
    "accelerate launch --config_file accelerate_configs/ddp": GPUS,
    "accelerate launch --config_file accelerate_configs/fsdp": GPUS,
    "accelerate launch --config_file accelerate_configs/multi_node": GPUS,  # two machines in one: tests/recipes/test_launching.py
    "sbatch": CLUSTER,  # with stand-ins for srun and scontrol: tests/recipes/test_launching.py
    "accelerate launch recipes/pretrain_smollm.py --config 124m$": HUB,
    "llmforge evaluate --model runs/gearhead --lm_eval hellaswag": HUB,
    "llmforge pretrain --preset neox-160m --corpus ~/texts --optim galore": INDEX,  # of the extra `optimizers`
}

SHORTER = """--max_steps 2 --eval_steps 1 --save_steps 1 --logging_steps 1 --max_eval_samples 4 --block_size 64
--per_device_train_batch_size 2 --per_device_eval_batch_size 2 --disable_tqdm true --max_new_tokens 4
--dataloader_num_workers 0"""
TUNED = """--max_steps 2 --logging_steps 1 --eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 2
--per_device_train_batch_size 2 --disable_tqdm true --max_new_tokens 4 --max_eval_samples 4"""
PROBED = "--block_size 64 --vocab_size 400 --n_layer 1 --n_embd 32 --n_head 2 --per_device_train_batch_size 1"
#: As the Makefile counts them.
WORKERS = (os.cpu_count() or 1) + 1
#: By the start of the line: what makes it quick, or able to end.
EXTRA = {
    "llmforge pretrain": SHORTER,
    "llmforge finetune": TUNED,
    "accelerate launch recipes/finetune": TUNED,
    # Seven books are few to make three splits of.
    "accelerate launch recipes/pretrain_gutenberg.py --config 124m": SHORTER
    + " --split_ratios 0.5,0.5,0 --gutenberg_url books/{id}.txt",
    "accelerate launch": SHORTER,
    "torchrun": SHORTER,
    "llmforge monitor": "--once",
    "llmforge plan --preset gpt2-10m --probe": PROBED,
    "llmforge plan --preset gpt2-124m --corpus project --probe": PROBED,
    "llmforge generate": "--max_new_tokens 4",
    "llmforge evaluate": "--max_new_tokens 4",
    "python benchmarks/time_to_loss.py": "--layers 1 --width 64 --block 64 --rows 2 --vocabulary 400 --steps 4 "
    "--learning_rates 1e-3 --shares 1",
    "python benchmarks/prepare.py": "--block 128 --vocabulary 400",
    "python benchmarks/step.py": "--rounds 1 --layers 1 --width 64",
    "python benchmarks/loss.py": "--pairs 1 --shapes 8k",
    "python benchmarks/attention.py": "--rounds 1 --dropout 0 --parts layers --documents code",
    "python benchmarks/optimizers.py": "--steps 6 --layers 1 --width 64 --rows 2 --eval_rows 2",
    "python benchmarks/startup.py": "--rounds 1",
    "python benchmarks/stop.py": "--rounds 1 --preset tiny",
    "python benchmarks/resume.py": "--rounds 1 --late 1000",
    "python benchmarks/gpu.py": "--smoke",
    "python benchmarks/checkpoint.py": "--rounds 1 --preset small",
    "python benchmarks/upload.py --megabytes 100": "--rounds 1 --megabytes 5",
    "python benchmarks/upload.py": "--rounds 1 --megabytes 20",
    "python benchmarks/dedup.py": "--count 20",
    "python benchmarks/leaks.py": "--documents 20 --steps 2",
    "python benchmarks/scaling.py": "--rounds 1 --smoke",
    "python benchmarks/plan.py": "--rows 'gpt2-10m, 4 × 512, checkpointed'",
    "python benchmarks/dial.py": "--minutes 0.3 --only 'the dial'",
    "PYTHONPATH=.:tests python -m reliability.chaos": "--kills 2 --stock_kills 1",
    "PYTHONPATH=.:tests python -m reliability.sweeps": "clock",
    # What make itself starts.
    "python -m reliability.chaos": "--kills 2 --stock_kills 1",
    "python -m reliability.sweeps": "clock",
    f"python -m pytest -n {WORKERS} --dist worksteal -m slow tests/reliability": "-k during_tokenizing",
    f"python -m pytest -n {WORKERS} --dist worksteal$": "tests/test_errors.py",
    f"python -m pytest -n {WORKERS} --dist worksteal -m '' tests/test_commands_run.py": "-k report",
}
#: Exit codes that are right besides 0, by the start of the line.
ENDS = {
    "llmforge prepare --check_leaks": 7,  # files of a small corpus are alike, and so are a fifth of their short runs
    "llmforge pretrain --preset gpt2-10m --n_layer 2 --n_embd 128 --n_head 4 --vocab_size 1024 --corpus recipes/samples/go "
    "--block_size 128 --max_steps 200 --learning_rate 1e12": 6,  # the page shows how that ends
}
#: What is typed into those that ask, by the start of the line.
TYPED = {
    "make infer$": "Volvo L60H\nBoom sinks slowly\n\n",
    "llmforge generate --model runs/chat/final --interactive": "Why is the sky blue?\n",
    "llmforge generate --model runs/pretrain_go-demo-001 --interactive": "func main() {\n",
}
GPT2 = "--n_layer 1 --n_embd 32 --n_head 2"
NEOX = "--num_hidden_layers 1 --hidden_size 32 --num_attention_heads 2 --intermediate_size 64"


def commands(page: Path) -> list[str]:
    """The shell commands of a page, one a line."""
    bodies = [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language == "bash"]
    whole = re.sub(r"\\\n\s*", "", "\n".join(bodies))  # a backslash goes on in the next line
    lines = (line.split("    #")[0].strip() for line in whole.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def first(table: dict[str, T], line: str, default: T) -> T:
    """What `table` has for the start of `line`, or, with a $ at the end, for all of it."""
    return next((value for start, value in table.items() if f"{line}$".startswith(start)), default)


def words_of(line: str) -> list[str]:
    """`line` as it is run."""
    for placeholder, stand_in in PLACEHOLDERS.items():
        line = re.sub(rf"(?<![\w.-]){re.escape(placeholder)}(?![\w/])", stand_in, line)
    words, extra = shlex.split(line.replace("$'\\n}\\n'", "'}'")), shlex.split(first(EXTRA, line, ""))
    pretrains = words[:2] == ["llmforge", "pretrain"] or (words[0] in ("accelerate", "torchrun") and "finetune" not in line)
    if pretrains:
        if "--eval_only" in words:
            extra = []
        extra += shlex.split(NEOX if "neox-" in line or "refocused" in line else GPT2)
        if "--tokenizer" not in words and "--dataset_dir" not in words and "refocused" not in line:
            extra += ["--vocab_size", "400"]
    return words + extra


def why_not(line: str) -> str:
    """What `line` needs so that it could be run; empty if it is."""
    return first(NEEDS, line, "")


def counted() -> tuple[int, Counter[str]]:
    """How many commands there are, and how many of them are not run, by what they need."""
    every = [line for page in PAGES for line in commands(page)]
    return len(every), Counter(why_not(line) for line in every if why_not(line))


def told() -> Iterator[str]:
    """The count, a line at a time."""
    every, needing = counted()
    run, absent = every - needing.total(), sum(needing[reason] for reason in ABSENT)
    pages = sum(bool(commands(page)) for page in PAGES)
    yield f"{every} commands on {pages} pages: {run} are run, {needing.total()} are parsed and not run, since they need"
    for reason, count in needing.most_common():
        yield f"  {count:3}  {reason}"
    yield f"Of the {every - absent} that a machine without GPU and network could run, {100 * run / (every - absent):.1f} % are."


if __name__ == "__main__":
    print(*told(), sep="\n")
