"""The refocused recipe as it is meant: shards from a bucket, checkpoints into it, and a machine that is gone."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import time
from pathlib import Path

from helpers import ROOT
from reliability.child_runs import Child
from reliability.harness import differing, weights

from llmforge.runtime.commands import run_command

RECIPE = ROOT / "recipes" / "pretrain_refocused.py"
SAMPLE = ROOT / "recipes" / "samples" / "refocused"
#: The test's config on a machine without a GPU.
SHRUNKEN = (
    "--num_hidden_layers 2 --hidden_size 32 --num_attention_heads 2 --intermediate_size 64 --max_position_embeddings 64"
    " --block_size 64 --dedup off --max_steps 6 --eval_steps 3 --save_steps 3 --logging_steps 1 --warmup_steps 2"
    " --max_eval_samples 4 --report_to none --disable_tqdm --use_cpu --hidden_dropout 0.1"
).split()


def test_the_refocused_recipe_is_killed_and_resumed_from_the_bucket(quick, bucket, proxy, tmp_path, capfd):
    """Five of the six shards are read; the machine is killed and emptied, and the end is that of an undisturbed run."""
    for path in (SAMPLE / "shards").iterdir():
        bucket.write(f"shards/{path.name}", path.read_bytes())
    words = ["--config", "test", "--corpus", f"{bucket.url}/shards", "--tokenizer", str(SAMPLE / "tokenizer"), *SHRUNKEN]

    def recipe(*more: str) -> int:
        return run_command(runpy.run_path(str(RECIPE))["main"], [*words, *more])

    assert recipe("--output_dir", "undisturbed") == 0
    data = json.loads(Path("undisturbed/run.json").read_text())["data"]
    read = {json.loads(line)["name"].split("#")[0] for line in Path(data["path"], "documents.jsonl").read_text().splitlines()}
    assert read == {f"{number:05}.npz" for number in range(5)}

    def first() -> int:
        from llmforge.callbacks import run_log

        stock = run_log.RunLog.on_log

        def held(self, args, state, *given, **named):
            while state.global_step == 5:  # till it is killed
                time.sleep(0.05)
            return stock(self, args, state, *given, **named)

        run_log.RunLog.on_log = held
        return recipe("--output_dir", "here/refocused", "--remote", f"{bucket.url}/runs")

    child = Child(first)
    try:
        end = time.monotonic() + 120
        while "runs/refocused/checkpoint-3/manifest.json" not in bucket.names("runs/"):
            assert time.monotonic() < end, capfd.readouterr().err[-3000:]
            time.sleep(0.05)
    finally:
        child.kill()
    shutil.rmtree("here")
    shutil.rmtree(os.environ["LLMFORGE_CACHE"])
    capfd.readouterr()
    place = f"{bucket.url}/runs/refocused"
    assert recipe("--output_dir", "there/refocused", "--remote", f"{bucket.url}/runs", "--resume", place) == 0
    assert re.search(r"resuming from checkpoint-3", "".join(capfd.readouterr()))
    assert differing(weights(Path("there/refocused"), 6), weights(Path("undisturbed"), 6)) == []
    assert {"runs/refocused/checkpoint-6/manifest.json", "runs/refocused/final/model.safetensors"} <= set(bucket.names("runs/"))
    assert json.loads(bucket.read("runs/refocused/exit.json"))["undelivered_uploads"] == []
