"""The callbacks that promise to work with a plain `transformers.Trainer`, in one, on plain data; and those that do not."""

from __future__ import annotations

import json

import pytest
from helpers import tiny_model
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from llmforge.callbacks.divergence import Divergence
from llmforge.callbacks.early_stopping import EarlyStopping
from llmforge.callbacks.histograms import Histograms
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.callbacks.run_log import RunLog
from llmforge.callbacks.samples import Samples
from llmforge.callbacks.throughput import Throughput
from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError

pytestmark = pytest.mark.pictures


@pytest.fixture
def plain(tokenizer, tmp_path):
    """A stock Trainer on unpacked text, with given callbacks."""

    def make(*callbacks, **changes):
        rows = [tokenizer(f"func f{number}() error return nil" * 3) for number in range(24)]
        settings = {"max_steps": 12, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"}
        settings |= {"learning_rate": 0.0, "include_num_input_tokens_seen": "all", "disable_tqdm": True, "report_to": []}
        args = TrainingArguments(str(tmp_path), use_cpu=True, **settings | changes)
        return Trainer(
            tiny_model("gpt2-10m", tokenizer),
            args,
            train_dataset=rows,
            eval_dataset=rows[:5],
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=list(callbacks),
        )

    return make


def test_the_four_in_a_stock_trainer(plain, tokenizer, tmp_path):
    generation = GenerationArguments(prompts=["func"], max_new_tokens=3)
    trainer = plain(Throughput(), EarlyStopping(patience=3), LossPlot(), Samples(tokenizer, generation))
    trainer.train()
    assert trainer.state.global_step == 8  # the first evaluation is the best, three are not better
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {"loss.png", "perplexity.png", "grad_norm.png"}
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]
    train = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["tokens_per_second"] > 0 and entry["eta_seconds"] >= 0 for entry in train)


def test_early_stopping_counts_on_in_a_resumed_stock_trainer(plain):
    """With stock's own defaults, under which transformers' own callback would begin to count anew."""
    plain(EarlyStopping(patience=3), max_steps=6, save_strategy="steps", save_steps=2).train()
    resumed = plain(EarlyStopping(patience=3), save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8


@pytest.mark.parametrize("callback", [lambda path: RunLog(path), lambda path: Divergence(), lambda path: Histograms(1)])
def test_the_others_say_that_they_need_forge_trainer(plain, callback, tmp_path):
    with pytest.raises(ConfigError, match="needs ForgeTrainer"):
        plain(callback(tmp_path)).train()
