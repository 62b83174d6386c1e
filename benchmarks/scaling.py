"""python benchmarks/scaling.py [--rounds N] [--smoke] [--json]

How the cost of training grows: with parameters, with the context, with the corpus and with processes, over small sizes.

Costs are CPU seconds of one thread, which hardly depend on what else the machine does; the ratio beside them is over
what arithmetic says (`6 N + 12 L w T` operations a token, with N the weights in matrices, L blocks of width w and
context T), 1 for the largest size. docs/concepts/scaling.md goes on from them on paper. The figures of ``--smoke`` mean nothing.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from common import packed_rows, parser, table, tell
from sides import forge, quiet
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, TrainerCallback

VOCABULARY, BLOCK, TOKENS, STEPS = 8192, 256, 2048, 4
#: Blocks and width, of heads of 64.
SHAPES = {"GPT-2": ((2, 128), (4, 256), (6, 384), (8, 512)), "GPT-NeoX": ((2, 128), (4, 256), (6, 384), (8, 512))}
CONTEXTS = (128, 256, 512, 1024, 2048)
#: Of documents, where they are not as long as the context.
SHORT = 128
MEGABYTES = (1, 2, 4, 8)
#: Steps of the two runs whose difference is the cost of steps alone.
FEW, MANY = 4, 24


def model(family: str, layers: int, width: int, context: int) -> Any:
    """Of that shape, freshly drawn, without dropout."""
    transformers.set_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "vocab_size": VOCABULARY}
    if family == "GPT-2":
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": context}
        return GPT2LMHeadModel(GPT2Config(**ids, **shape, **dropout))
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**ids, **shape, intermediate_size=4 * width, max_position_embeddings=context))


def operations(layers: int, width: int, context: int) -> float:
    """Operations a token, forward and backward; a document fills the context."""
    matrices = 12 * layers * width**2 + VOCABULARY * width
    return 6.0 * matrices + 12.0 * layers * width * context / 2  # causal: half of the products


class Clock(TrainerCallback):
    """CPU seconds of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """As Trainer calls it."""
        self._begun = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """As Trainer calls it."""
        self.steps.append(time.process_time() - self._begun)


def step_cost(family: str, layers: int, width: int, context: int, document: int, rounds: int) -> float:
    """CPU seconds a token."""
    batch = max(TOKENS // context, 1)
    rows = packed_rows(4 * batch, context, document, VOCABULARY)
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        told = {"per_device_train_batch_size": batch, "max_steps": STEPS * rounds, "use_cpu": True}
        trainer = forge(model(family, layers, width, context), rows, Path(name), lean_loss=True, **told)
        trainer.add_callback(clock)
        trainer.train()
    return statistics.median(clock.steps[1:]) / (batch * context)


def words(megabytes: float, seed: int = 0) -> list[str]:
    """Made-up documents of so many bytes in all."""
    source = random.Random(seed)
    known = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(5000)]
    made, size = [], 0
    while size < megabytes * 2**20:
        made.append(" ".join(source.choices(known, k=600)))
        size += len(made[-1])
    return made


def child_seconds(command: list[str], folder: Path) -> float:
    """CPU seconds of a command and all that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "LLMFORGE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def corpus_cost(megabytes: int) -> float:
    """CPU seconds of `llmforge prepare`, tokenizer included, on so many MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts").mkdir()
        for number, text in enumerate(words(megabytes)):
            (folder / "texts" / f"{number:05}.txt").write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "llmforge",
            "prepare",
            "--corpus",
            "texts",
            "--vocab_size",
            "4096",
            "--output_dir",
            "out",
        ]
        return child_seconds(command, folder)


def process_cost(processes: int) -> float:
    """CPU seconds a token of all processes together, by the difference of two runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts").mkdir()
        for number, text in enumerate(words(0.5)):
            (folder / "texts" / f"{number:05}.txt").write_text(text, encoding="utf-8")
        rows, settings = (
            8,
            "--preset gpt2-10m --vocab_size 2048 --block_size 256 --n_layer 4 --eval_strategy no --save_strategy no",
        )
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "llmforge", "pretrain"]
        told = [*settings.split(), "--use_cpu", "--report_to", "none", "--disable_tqdm", "--corpus", "texts"]
        told += ["--per_device_train_batch_size", str(rows // processes)]
        spent = [  # the first prepares the data
            child_seconds([*launcher, *told, "--max_steps", str(steps), "--output_dir", f"run{steps}"], folder)
            for steps in (1, FEW, MANY)
        ]
        return (spent[2] - spent[1]) / ((MANY - FEW) * rows * 256)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help=f"so many times {STEPS} steps of each shape")
    options.add_argument("--smoke", action="store_true", help="the smallest of each, one process: does the script still run?")
    chosen = options.parse_args()
    some = slice(1 if chosen.smoke else None)
    quiet()
    torch.set_num_threads(1)
    parameters: list[dict[str, Any]] = []
    for family, shapes in SHAPES.items():
        for layers, width in shapes[some]:
            cost = step_cost(family, layers, width, BLOCK, BLOCK, chosen.rounds)
            needed = operations(layers, width, BLOCK)
            parameters.append({"family": family, "layers": layers, "width": width, "seconds": cost, "operations": needed})
    contexts = [
        {
            "context": context,
            "filled": step_cost("GPT-2", 4, 256, context, 2 * context, chosen.rounds),
            "short": step_cost("GPT-2", 4, 256, context, SHORT, chosen.rounds),
            "operations": operations(4, 256, context),
        }
        for context in CONTEXTS[some]
    ]
    corpora = [{"megabytes": size, "seconds": corpus_cost(size)} for size in MEGABYTES[some]]
    processes = [{"processes": count, "seconds": process_cost(count)} for count in (1, 2)[some]]
    figures = {"parameters": parameters, "contexts": contexts, "corpora": corpora, "processes": processes}
    if chosen.json:
        tell(True, figures, "")
        return
    tell(False, figures, "\n\n".join(texts(figures)))


def texts(figures: dict[str, Any]) -> list[str]:
    """The four tables."""
    sizes = [["shape", "operations a token", "µs of CPU a token", "over arithmetic"]]
    for family in SHAPES:
        own = [line for line in figures["parameters"] if line["family"] == family]
        largest = own[-1]["seconds"] / own[-1]["operations"]
        for line in own:
            name = f"{family}, {line['layers']} blocks of {line['width']}"
            over = line["seconds"] / line["operations"] / largest
            sizes.append([name, f"{line['operations'] / 1e6:.0f} M", f"{1e6 * line['seconds']:.0f}", f"{over:.2f}"])
    head = ["context", "filled by documents: µs of CPU a token", "over arithmetic", f"documents of {SHORT}: µs of CPU a token"]
    last = figures["contexts"][-1]
    most = last["filled"] / last["operations"]
    lengths = [
        [
            str(line["context"]),
            f"{1e6 * line['filled']:.0f}",
            f"{line['filled'] / line['operations'] / most:.2f}",
            f"{1e6 * line['short']:.0f}",
        ]
        for line in figures["contexts"]
    ]
    corpora = [["corpus", "CPU seconds of prepare", "seconds a further MB"]]
    before = None
    for line in figures["corpora"]:
        more = (
            "" if before is None else f"{(line['seconds'] - before['seconds']) / (line['megabytes'] - before['megabytes']):.2f}"
        )
        corpora.append([f"{line['megabytes']} MB", f"{line['seconds']:.1f}", more])
        before = line
    one = figures["processes"][0]["seconds"]
    several = [["processes", "µs of CPU a token, all together", "over one"]]
    several += [
        [str(line["processes"]), f"{1e6 * line['seconds']:.0f}", f"{line['seconds'] / one:.2f}"] for line in figures["processes"]
    ]
    return [table(sizes), table([head, *lengths]), table(corpora), table(several)]


if __name__ == "__main__":
    main()
