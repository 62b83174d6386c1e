"""python benchmarks/optimizers.py [--dataset_dir DIR] [--runs adamw_torch_fused:2e-3 muon:6e-3:0.5 …] [--json]

Optimizers, learning rates and schedules on the same rows in the same order with the same initial
weights: GPT-2 trained for `--steps` steps, then the loss on fixed validation rows. A run is
``NAME:LR[:SHARE]``, SHARE being the learning rate of Muon's AdamW part as a share of LR, then any
fields as ``:field=value`` (``:weight_decay=0``, ``:lr_scheduler_type=warmup_stable_decay``,
``:dropout=0.1``). Without a dataset it trains on the repository's sample, in minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import transformers
import yaml
from sides import Clock

from llmforge import DataArguments, ForgeTrainingArguments, ModelArguments, TokenizerArguments, build_model
from llmforge.data.collate import PackedCollator
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import PreparedDataset, load_prepared
from llmforge.trainer import ForgeTrainer

SAMPLE = Path(__file__).parent.parent / "recipes" / "samples" / "go"
RUNS = ["adamw_torch_fused:2e-3", "muon:6e-3:0.5", "muon:6e-3:0.5:lr_scheduler_type=warmup_stable_decay"]


def one(spec: str, data: PreparedDataset, options: argparse.Namespace) -> dict[str, Any]:
    """Train as `spec` says."""
    name, rate, *rest = spec.split(":")
    fields = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in rest if "=" in item)}
    share = next((float(item) for item in rest if "=" not in item), None)
    if share is not None:
        fields["muon_adamw_lr"] = share * float(rate)
    dropout = fields.pop("dropout", 0.0)
    model = build_model(
        ModelArguments(
            preset="gpt2-10m",
            n_layer=options.layers,
            n_embd=options.width,
            n_head=max(options.width // 64, 1),
            n_positions=data.block_size,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        ),
        data.tokenizer,
        data.block_size,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = ForgeTrainingArguments(
            output_dir=folder,
            optim=name,
            learning_rate=float(rate),
            max_steps=options.steps,
            per_device_train_batch_size=options.rows,
            per_device_eval_batch_size=8,
            eval_strategy="no",
            save_strategy="no",
            report_to=["none"],
            logging_steps=10,
            disable_tqdm=True,
            **fields,
        )
        trainer = ForgeTrainer(
            model=model,
            args=args,
            train_dataset=data.rows("train"),
            eval_dataset=data.rows("validation", options.eval_rows),
            processing_class=data.tokenizer,
            data_collator=PackedCollator(),
            callbacks=[clock],
        )
        trainer.pop_callback(transformers.PrinterCallback)
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
    return {
        "run": spec,
        "parameters": model.num_parameters(),
        "loss": round(loss, 4),
        "step_ms": round(1e3 * statistics.median(clock.steps()), 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="a prepared dataset; by default the sample is prepared")
    parser.add_argument("--runs", nargs="+", default=RUNS, help="what to train")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--eval_rows", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if options.dataset_dir:
        data = load_prepared(options.dataset_dir)
    else:
        data = prepare_dataset(DataArguments(corpus=str(SAMPLE), block_size=256), TokenizerArguments(vocab_size=1024))
    results = []
    for spec in options.runs:
        results.append(one(spec, data, options))
        if not options.json:
            found = results[-1]
            print(f"{found['loss']:7.4f}  {found['step_ms']:8.1f} ms a step  {found['parameters']:>11,}  {spec}", flush=True)
    if options.json:
        print(json.dumps({"results": results, **{name: getattr(options, name) for name in ("steps", "rows", "eval_rows")}}))


if __name__ == "__main__":
    main()
