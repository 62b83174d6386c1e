"""ForgeTrainer against stock Trainer: every trap of the stack that it closes, shown on both sides."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import transformers
from helpers import awkward_documents, forge_trainer, packed_rows, separate_sums, tiny_model, training_args
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback

from llmforge.build import build_trainer
from llmforge.callbacks.early_stopping import EarlyStopping
from llmforge.checkpointing import Checkpointing
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.run import RunArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.prepare import prepare_dataset
from llmforge.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from llmforge.storage.records import read_json, read_json_lines
from llmforge.trainer import ForgeTrainer


@pytest.fixture
def documents(tokenizer):
    return awkward_documents(tokenizer)


def stock_trainer(model, tokenizer, folder, **datasets):
    """transformers.Trainer on the same rows and collator, with a model that knows nothing of llmforge."""
    plain = type(model)(copy.deepcopy(model.config))
    plain.load_state_dict(model.state_dict())
    batch = datasets.pop("per_device_eval_batch_size", 8)
    args = training_args(folder, per_device_eval_batch_size=batch, optim="adamw_torch_fused", learning_rate=5e-4)
    return Trainer(plain, args, processing_class=tokenizer, data_collator=PackedCollator(), **datasets)


# --- the loss's scale -------------------------------------------------------------------------


def test_trap_stock_counts_one_target_too_many_a_row_for_gpt2(tokenizer, tmp_path):
    """One document of 40 tokens through the stock collator: stock Trainer's loss is 39/40 of the model's own."""
    model = tiny_model("gpt2-10m", tokenizer)
    row = {"input_ids": list(range(20, 60))}
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    plain = GPT2LMHeadModel(copy.deepcopy(model.config))
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        own = float(plain.eval()(**collator([row])).loss)
    stock = Trainer(plain, training_args(tmp_path), eval_dataset=[row], processing_class=tokenizer, data_collator=collator)
    assert stock.evaluate()["eval_loss"] / own == pytest.approx(39 / 40, rel=1e-4)
    ours = ForgeTrainer(model, training_args(tmp_path), eval_dataset=[row], processing_class=tokenizer, data_collator=collator)
    ours.compute_metrics = None  # rows that are not packed are evaluated as stock does
    assert ours.evaluate()["eval_loss"] / own == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_logged_loss_is_the_mean_over_the_steps_targets(preset, accumulation, tokenizer, documents, tmp_path):
    """Learning rate 0: the logged loss of an epoch in one step is the documents' own, whatever the accumulation."""
    rows = packed_rows(documents, tokenizer)
    model = tiny_model(preset, tokenizer)
    nll, tokens, *_ = separate_sums(model, documents, tokenizer)
    batch = -(-len(rows) // accumulation)
    trainer = forge_trainer(
        model,
        tokenizer,
        tmp_path,
        rows,
        max_steps=1,
        learning_rate=0.0,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert trainer.state.log_history[0]["tokens"] == tokens


def test_weights_after_training_do_not_depend_on_the_accumulation(preset, tokenizer, documents, tmp_path):
    """1 x 8, 2 x 4 and 8 x 1 with a ragged end of epoch; the bound is fp32 sums in another order."""
    states, losses = [], []
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        trainer = forge_trainer(
            tiny_model(preset, tokenizer),
            tokenizer,
            tmp_path,
            packed_rows(documents, tokenizer),
            max_steps=5,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-3,
            optim="sgd",
        )
        trainer.train()
        states.append(trainer.model.state_dict())
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-5)
        for name, value in states[0].items():
            assert torch.allclose(states[other][name], value, atol=1e-6), name


# --- perplexity --------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [False, True])
def test_perplexity_is_the_same_at_every_batch_size(preset, dropout, tokenizer, documents, tmp_path):
    rows = packed_rows(documents, tokenizer)
    assert len(rows) % 4, "the last batch is to be ragged"
    model = tiny_model(preset, tokenizer, dropout=dropout)
    nll, tokens, correct, size, byte_nll = separate_sums(model, documents, tokenizer)
    for batch in range(1, 10):
        trainer = forge_trainer(model, tokenizer, tmp_path, evaluate=rows, per_device_eval_batch_size=batch)
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx(nll / tokens, rel=1e-5)
        assert metrics["eval_perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
        assert metrics["eval_bits_per_byte"] == pytest.approx(byte_nll / math.log(2) / size, rel=1e-5)
        assert metrics["eval_accuracy"] == correct / tokens
        assert (metrics["eval_tokens"], metrics["eval_bytes"]) == (tokens, size)


def test_trap_stock_perplexity_depends_on_the_batch_size(tokenizer, documents, tmp_path):
    model = tiny_model("neox-10m", tokenizer)
    rows = packed_rows(documents, tokenizer)
    losses = [
        stock_trainer(model, tokenizer, tmp_path, eval_dataset=rows, per_device_eval_batch_size=batch).evaluate()["eval_loss"]
        for batch in (1, 4, 9)
    ]
    assert max(losses) - min(losses) > 1e-3


def test_evaluation_never_gathers_logits(tokenizer, documents, tmp_path):
    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, evaluate=packed_rows(documents, tokenizer))
    predictions = trainer.predict(trainer.eval_dataset).predictions
    assert predictions.shape == (len(trainer.eval_dataset), 5)


# --- NaN ---------------------------------------------------------------------------------------


class Poison(TrainerCallback):
    """Makes one weight NaN before a given step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.parameters())[20:40] = math.nan


@pytest.mark.parametrize("accumulation", [1, 3])
def test_training_stops_at_the_step_that_is_not_finite(preset, accumulation, tokenizer, documents, tmp_path):
    trainer = forge_trainer(
        tiny_model(preset, tokenizer),
        tokenizer,
        tmp_path,
        packed_rows(documents, tokenizer),
        max_steps=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        save_strategy="steps",
        save_steps=1,
        callbacks=[Poison(3)],
    )
    with pytest.raises(TrainingDiverged, match="Step 4") as error:
        trainer.train()
    assert error.value.exit_code == 6
    assert trainer.state.global_step == 3
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == "checkpoint-3"


class Overflow(TrainerCallback):
    """Makes a weight infinite after a step whose loss and gradient were finite, as a huge learning rate does."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                next(model.parameters())[20] = math.inf


def test_weights_that_overflowed_are_not_saved(tokenizer, documents, tmp_path):
    trainer = forge_trainer(
        tiny_model("gpt2-10m", tokenizer),
        tokenizer,
        tmp_path,
        packed_rows(documents, tokenizer),
        max_steps=6,
        save_strategy="steps",
        save_steps=1,
        callbacks=[Overflow()],
    )
    with pytest.raises(TrainingDiverged, match="Step 3 left weights that are not finite"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_the_documents_of_a_diverged_step_are_those_that_were_trained_on(prepared, tmp_path):
    """On a second epoch, with accumulation and a ragged last step."""
    names, seen = {line["document"]: line["name"] for line in read_json_lines(prepared.path / "documents.jsonl")}, []
    step_rows = 6
    steps = -(-len(prepared.rows("train")) // step_rows)
    args = training_args(tmp_path, max_steps=3 * steps, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    trainer = build_trainer(
        tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, folder=tmp_path, callbacks=[Poison(2 * steps - 1)]
    )
    stock = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(rows) or stock(rows)
    with pytest.raises(TrainingDiverged, match=f"Step {2 * steps}: loss nan"):
        trainer.train()
    record = read_json(tmp_path / "divergence.json")
    last = seen[3 * (2 * steps - 1) : 3 * 2 * steps]
    expected = {names[int(document)] for rows in last for row in rows for document in row["segment_documents"]}
    assert set(record["documents"]) == expected
    assert len(record["micro_batch_losses"]) == 3


def test_trap_stock_hides_nan(tokenizer, documents, tmp_path):
    """Its default filter logs a loss of 0.0 and goes on to the end."""
    model = tiny_model("neox-10m", tokenizer)
    args = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=4,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    stock = Trainer(
        model,
        args,
        train_dataset=packed_rows(documents, tokenizer),
        processing_class=tokenizer,
        data_collator=PackedCollator(),
        callbacks=[Poison(2)],
    )
    stock.train()
    assert stock.state.global_step == 4
    assert [entry["loss"] for entry in stock.state.log_history if "loss" in entry][-1] == 0.0


def test_an_evaluation_that_is_not_finite_says_so(tokenizer, documents, tmp_path):
    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, evaluate=packed_rows(documents, tokenizer))
    with torch.no_grad():
        trainer.model.transformer.ln_f.weight[:] = math.nan
    metrics = trainer.evaluate()
    assert math.isnan(metrics["eval_loss"])
    assert math.isnan(metrics["eval_perplexity"])


# --- order, optimizer, checkpoints ---------------------------------------------------------------


def watched(trainer):
    """The first ids of the rows of each micro-batch, in order."""
    seen = []
    stock = trainer.data_collator

    def collate(rows):
        batch = stock(rows)
        seen.append(batch["input_ids"].tolist())
        return batch

    trainer.data_collator = collate
    return seen


def test_every_row_is_trained_on_once_an_epoch(tokenizer, documents, tmp_path):
    rows = packed_rows(documents, tokenizer)
    trainer = forge_trainer(
        tiny_model("gpt2-10m", tokenizer),
        tokenizer,
        tmp_path,
        rows,
        num_train_epochs=2,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
    )
    seen = watched(trainer)
    trainer.train()
    trained = [tuple(row) for batch in seen for row in batch if set(row) != {tokenizer.pad_token_id}]
    everything = sorted(tuple(rows[i]["input_ids"].tolist()) for i in range(len(rows)))
    assert sorted(trained[: len(rows)]) == everything
    assert sorted(trained[len(rows) :]) == everything
    assert trained[: len(rows)] != trained[len(rows) :]


def test_decay_is_on_matrices_only(preset, tokenizer, tmp_path):
    trainer = forge_trainer(tiny_model(preset, tokenizer), tokenizer, tmp_path)
    optimizer = trainer.create_optimizer()
    decayed = [parameter for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]]
    others = [parameter for group in optimizer.param_groups if not group["weight_decay"] for parameter in group["params"]]
    assert decayed
    assert others
    assert all(parameter.ndim >= 2 for parameter in decayed)
    assert all(parameter.ndim < 2 for parameter in others)
    assert sum(map(torch.numel, decayed + others)) == trainer.model.num_parameters()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_the_schedule_warms_up_and_ends_at_its_floor(tokenizer, documents, tmp_path):
    trainer = forge_trainer(
        tiny_model("gpt2-10m", tokenizer),
        tokenizer,
        tmp_path,
        packed_rows(documents, tokenizer),
        max_steps=20,
        learning_rate=1e-3,
        warmup_steps=4,
        min_lr_ratio=0.25,
        per_device_train_batch_size=2,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] < rates[3] < 1e-3 + 1e-9
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(0.25e-3, rel=0.1)


@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (5, 0), (5, 2)])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(preset, stop, workers, tokenizer, documents, tmp_path):
    """Dropout on; five steps an epoch: the stops lie within the first epoch and at its end."""

    def run(folder: Path, steps: int, checkpoint: str | None = None):
        trainer = forge_trainer(
            tiny_model(preset, tokenizer, dropout=True, seed=0 if checkpoint is None else 1),
            tokenizer,
            folder,
            packed_rows(documents, tokenizer),
            max_steps=8,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=3,
            save_strategy="steps",
            save_steps=1,
            dataloader_num_workers=workers,
            learning_rate=1e-2,
        )
        seen = watched(trainer)
        if steps < 8:
            trainer.add_callback(StopAfter(steps))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, seen

    assert -(-len(packed_rows(documents, tokenizer)) // 3) == 5
    whole, _ = run(tmp_path / "whole", 8)
    run(tmp_path / "cut", stop)
    resumed, _ = run(tmp_path / "cut", 8, str(tmp_path / "cut" / f"checkpoint-{stop}"))
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert losses[0] == losses[1]
    assert whole.state.num_input_tokens_seen == resumed.state.num_input_tokens_seen


class StopAfter(TrainerCallback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps
        return control


def saved_checkpoint(preset, tokenizer, documents, folder, **changes):
    """A trainer after two steps, with a checkpoint of the last."""
    steps = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    trainer = forge_trainer(
        tiny_model(preset, tokenizer), tokenizer, folder, packed_rows(documents, tokenizer), **steps | changes
    )
    trainer.train()
    return trainer, folder / "checkpoint-2"


def test_a_checkpoint_is_a_stock_one_without_pickled_arguments(preset, tokenizer, documents, tmp_path):
    """from_pretrained and plain Trainer read it, every tensor of it."""
    trainer, checkpoint = saved_checkpoint(preset, tokenizer, documents, tmp_path, optim="adamw_torch_fused")
    assert not (checkpoint / "training_args.bin").exists()
    assert json.loads((checkpoint / "trainer_state.json").read_text())["num_input_tokens_seen"] > 0
    loaded = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    for one, other in zip(trainer.model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
    stock = stock_trainer(
        tiny_model(preset, tokenizer, seed=1), tokenizer, tmp_path / "s", train_dataset=packed_rows(documents, tokenizer)
    )
    stock._load_from_checkpoint(str(checkpoint))
    for (name, one), other in zip(trainer.model.named_parameters(), stock.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    stock.args.max_steps = 3
    stock.train(resume_from_checkpoint=str(checkpoint))
    assert stock.state.global_step == 3


def test_trap_stock_resumes_gpt_neox_with_a_fresh_head(tokenizer, documents, tmp_path):
    """It saves the head under another name than it loads it from, and only warns."""
    model = tiny_model("neox-10m", tokenizer)
    first = stock_trainer(model, tokenizer, tmp_path)
    first.save_model(str(tmp_path / "checkpoint-1"))
    second = stock_trainer(tiny_model("neox-10m", tokenizer, seed=1), tokenizer, tmp_path)
    second._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert torch.equal(first.model.gpt_neox.embed_in.weight, second.model.gpt_neox.embed_in.weight)
    assert not torch.equal(first.model.lm_head.weight, second.model.lm_head.weight)


def test_a_checkpoint_of_another_model_is_refused(tokenizer, documents, tmp_path):
    rows = packed_rows(documents, tokenizer)
    steps = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, rows, **steps).train()
    with pytest.raises(CheckpointError):
        other = forge_trainer(tiny_model("neox-10m", tokenizer), tokenizer, tmp_path, rows, **steps)
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_tied_weights_are_not_reported_missing(tokenizer, documents, tmp_path, caplog):
    rows = packed_rows(documents, tokenizer)
    steps = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, rows, max_steps=1, **steps).train()
    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path, rows, max_steps=2, **steps)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "missing keys" not in caplog.text
    assert trainer.model.lm_head.weight is trainer.model.transformer.wte.weight


def test_the_best_checkpoint_is_one_that_was_saved(tokenizer, documents, tmp_path):
    """Evaluated every step, saved every second: stock would remember step 1 or 3 and load nothing."""
    rows = packed_rows(documents, tokenizer)
    trainer = forge_trainer(
        tiny_model("gpt2-10m", tokenizer),
        tokenizer,
        tmp_path,
        rows,
        rows,
        max_steps=4,
        learning_rate=1e-2,
        warmup_steps=1,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        per_device_train_batch_size=4,
        load_best_model_at_end=True,
        callbacks=[WorseAt(4)],
    )
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    for one, other in zip(trainer.model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(one, other)


class WorseAt(TrainerCallback):
    """Spoils the model before the last evaluation."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.3 * torch.randn_like(parameter)


def test_early_stopping_counts_on_after_a_resume(tokenizer, documents, tmp_path):
    rows = packed_rows(documents, tokenizer)

    def trainer(steps):
        return forge_trainer(
            tiny_model("gpt2-10m", tokenizer),
            tokenizer,
            tmp_path,
            rows,
            rows,
            max_steps=steps,
            learning_rate=0.0,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            per_device_train_batch_size=4,
            callbacks=[EarlyStopping(patience=3)],
        )

    trainer(3).train()  # the first evaluation is the best; two are not better
    resumed = trainer(9)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 4


# --- build_trainer ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(corpus, shared_cache_module):
    from llmforge.configs.data import DataArguments
    from llmforge.configs.tokenizer import TokenizerArguments

    return prepare_dataset(DataArguments(corpus=str(corpus), block_size=32), TokenizerArguments(vocab_size=400))


@pytest.fixture(scope="module")
def shared_cache_module(shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFORGE_CACHE", str(shared_cache))
        yield shared_cache


def without_validation(corpus):
    from llmforge.configs.data import DataArguments
    from llmforge.configs.tokenizer import TokenizerArguments

    data = DataArguments(corpus=str(corpus), block_size=32, split_ratios="1,0,0")
    return prepare_dataset(data, TokenizerArguments(vocab_size=400))


def test_without_validation_data_evaluation_is_simply_off(corpus, tmp_path):
    data = without_validation(corpus)
    args = training_args(tmp_path, eval_strategy="steps", eval_on_start=True, save_strategy="steps", max_steps=1)
    trainer = build_trainer(tiny_model("gpt2-10m", data.tokenizer), data, args)
    trainer.train()
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)


def test_without_validation_data_an_explicit_wish_for_it_is_refused(corpus, tmp_path):
    data = without_validation(corpus)
    model = tiny_model("gpt2-10m", data.tokenizer)
    with pytest.raises(ConfigError, match="early_stopping_patience 3"):
        build_trainer(model, data, training_args(tmp_path), run=RunArguments(early_stopping_patience=3))
    wishful = training_args(tmp_path, eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True)
    with pytest.raises(ConfigError, match="load_best_model_at_end"):
        build_trainer(model, data, wishful)


def test_a_model_with_too_few_rows_is_refused_before_step_1(prepared, tokenizer, tmp_path):
    model = tiny_model("gpt2-10m", tokenizer)
    model.resize_token_embeddings(64)
    with pytest.raises(DataError, match="64 rows"):
        build_trainer(model, prepared, training_args(tmp_path))


def test_few_validation_rows_are_warned_about_and_training_goes_on(prepared, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    args = training_args(
        tmp_path,
        max_steps=1,
        eval_strategy="steps",
        save_strategy="steps",
        per_device_eval_batch_size=512,
        per_device_train_batch_size=512,
    )
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args)
    assert "fewer than one batch of 512" in caplog.text
    assert "fewer than the 512 of one step" in caplog.text
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("flag", ["metric_for_best_model", "early_stopping_metric"])
def test_a_metric_that_does_not_exist_is_refused_before_step_1(prepared, tmp_path, flag):
    best = {"metric_for_best_model": "perplexty"} if flag == "metric_for_best_model" else {}
    run = RunArguments(early_stopping_patience=2, early_stopping_metric="perplexty") if not best else None
    args = training_args(tmp_path, eval_strategy="steps", save_strategy="steps", **best)
    with pytest.raises(ConfigError, match=rf"--{flag} perplexty .*Known: loss, perplexity, bits_per_byte, accuracy"):
        build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, run=run)


def test_a_prompt_longer_than_the_context_is_refused_before_step_1(prepared, tmp_path):
    generation = GenerationArguments(prompts=["func " * 5000])
    with pytest.raises(ConfigError, match="the model has 1024 positions"):
        build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, training_args(tmp_path), generation)


@pytest.mark.parametrize(("metric", "greater"), [("accuracy", True), ("perplexity", False), ("bits_per_byte", False)])
def test_the_best_checkpoint_by_any_metric(prepared, tmp_path, metric, greater):
    """Trap: stock takes whatever does not end in "loss" for better when it is greater, perplexity too."""
    args = training_args(
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        max_steps=6,
        learning_rate=1e-2,
        metric_for_best_model=metric,
        load_best_model_at_end=True,
    )
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, folder=tmp_path)
    trainer.train()
    values = {entry["step"]: entry[f"eval_{metric}"] for entry in trainer.state.log_history if f"eval_{metric}" in entry}
    chosen = max(values.values()) if greater else min(values.values())
    assert len(set(values.values())) == 3
    assert values[trainer.state.best_global_step] == chosen
    stock = transformers.TrainingArguments(
        str(tmp_path), load_best_model_at_end=True, metric_for_best_model=metric, save_strategy="no"
    )
    assert stock.greater_is_better  # perplexity's worst would be kept


def test_saving_only_the_best_saves_it(prepared, tmp_path):
    args = training_args(
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="best",
        max_steps=6,
        learning_rate=1e-2,
        load_best_model_at_end=True,
    )
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, folder=tmp_path)
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{trainer.state.best_global_step}"
    assert Path(trainer.state.best_model_checkpoint).is_dir()


def test_tokens_are_targets_counted_once(prepared, tmp_path):
    args = training_args(tmp_path, max_steps=3, per_device_train_batch_size=2)
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, folder=tmp_path)
    trainer.train()
    targets = sum(int(sum(row["segment_lengths"])) for step in range(3) for row in trainer.rows_of_step(step))
    assert trainer.state.num_input_tokens_seen == targets


class Interrupt(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_a_training_begun_again_counts_from_the_start(prepared, tmp_path):
    """In a notebook: interrupted between two micro-batches and two log events, then `train` again."""
    rhythm = {"max_steps": 4, "logging_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}

    def made(*callbacks):
        args = training_args(tmp_path, **rhythm)
        model = tiny_model("gpt2-10m", prepared.tokenizer)
        return build_trainer(model, prepared, args, folder=tmp_path, callbacks=callbacks)

    fresh, again = made(), made(Interrupt())
    fresh.train()
    with pytest.raises(KeyboardInterrupt):
        again.train()
    again.remove_callback(Interrupt)
    again.train()
    assert again.state.num_input_tokens_seen == fresh.state.num_input_tokens_seen
    assert len(again.last_losses) == 2


def test_a_checkpoint_of_plain_trainer_can_be_gone_on_with(prepared, tmp_path):
    rhythm = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    rhythm |= {"optim": "adamw_torch_fused", "learning_rate": 5e-4}  # plain Trainer has no Muon, and chooses no rate
    rows = prepared.rows("train")
    model = tiny_model("gpt2-10m", prepared.tokenizer)
    args = training_args(tmp_path, **rhythm)
    tools = {"train_dataset": rows, "processing_class": prepared.tokenizer, "data_collator": PackedCollator()}
    Trainer(model, args, **tools).train()
    args = training_args(tmp_path, **rhythm | {"max_steps": 4})
    ours = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, folder=tmp_path)
    ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "checkpoint-4").is_dir()


def test_broken_weights_are_not_saved_by_hand_either(prepared, tmp_path):
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, training_args(tmp_path), folder=tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters())[0] = math.nan
    with pytest.raises(TrainingDiverged):
        trainer.save_model(str(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


def test_max_eval_samples_bounds_the_evaluation(prepared, tmp_path):
    args = training_args(tmp_path, eval_strategy="steps", save_strategy="steps")
    trainer = build_trainer(tiny_model("gpt2-10m", prepared.tokenizer), prepared, args, max_eval_samples=2)
    assert len(trainer.eval_dataset) == 2


# --- the stock parts relied on ----------------------------------------------------------------------

#: Stock methods that ForgeTrainer overrides or relies on, with the first digits of their source's SHA-256.
#: A failure here means: read what changed in transformers, then put the new digits in.
RELIED_ON = Path(__file__).with_name("relied_on.json")


def stock_sources() -> dict[str, str]:
    from accelerate.data_loader import BatchSamplerShard
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.loss.loss_utils import ForCausalLMLoss
    from transformers.masking_utils import _preprocess_mask_arguments, create_causal_mask, find_packed_sequence_indices, sdpa_mask
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block, GPT2Model
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXLayer, GPTNeoXModel
    from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

    overridden = [
        name
        for name in (*vars(ForgeTrainer), *vars(Checkpointing))
        if hasattr(Trainer, name) and callable(getattr(Trainer, name)) and name != "__init__"
    ]
    relied = [
        "_run_epoch",
        "_inner_training_loop",
        "_get_num_items_in_batch",
        "compute_loss",
        "evaluate",
        "evaluation_loop",
        "_load_callback_state",
        "_maybe_log_save_evaluate",
        "_save_optimizer_and_scheduler",
        "_save_scaler",
        "_save_rng_state",
        "store_flos",
        "_get_output_dir",
        "_prepare_for_training",
    ]
    parts = {f"Trainer.{name}": getattr(Trainer, name) for name in (*overridden, *relied) if not name.startswith("__")}
    parts |= {
        "ForCausalLMLoss": ForCausalLMLoss,
        "_preprocess_mask_arguments": _preprocess_mask_arguments,
        "find_packed_sequence_indices": find_packed_sequence_indices,
        "create_causal_mask": create_causal_mask,
        "sdpa_mask": sdpa_mask,
        "sdpa_attention_forward": sdpa_attention_forward,
        "BatchSamplerShard": BatchSamplerShard,
        "TrainerState.save_to_json": transformers.TrainerState.save_to_json,
        "DefaultFlowCallback": DefaultFlowCallback,
        "CallbackHandler.on_save": CallbackHandler.on_save,
        "CallbackHandler.on_train_begin": CallbackHandler.on_train_begin,
        "PreTrainedModel.save_pretrained": transformers.PreTrainedModel.save_pretrained,
        "GPT2LMHeadModel.forward": GPT2LMHeadModel.forward,
        "GPTNeoXForCausalLM.forward": transformers.GPTNeoXForCausalLM.forward,
    }
    # Through these `segments` reach our attention.
    layers = (GPT2Attention, GPT2Block, GPT2Model, GPTNeoXAttention, GPTNeoXLayer, GPTNeoXModel)
    parts |= {f"{part.__name__}.forward": part.forward for part in layers}
    return {name: hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16] for name, part in sorted(parts.items())}


def test_the_stock_parts_we_rely_on_have_not_changed():
    assert stock_sources() == json.loads(RELIED_ON.read_text())


def test_forge_trainer_stays_small():
    assert len(inspect.getsource(ForgeTrainer).splitlines()) < 300
    assert len(inspect.getsource(Checkpointing).splitlines()) < 300


def test_each_override_says_what_it_replaces():
    for name, part in (*vars(ForgeTrainer).items(), *vars(Checkpointing).items()):
        if callable(part) and name != "__init__" and hasattr(Trainer, name):
            assert f"Trainer.{name}" in (part.__doc__ or ""), name


@pytest.mark.parametrize("processes", [1, 2])
def test_the_order_is_that_of_the_epoch_after_a_resume_on_any_number_of_processes(processes):
    """Trap: behind the two wrappers of a resume on two processes, Trainer's own set_epoch does not reach the sampler."""
    from accelerate.data_loader import prepare_data_loader, skip_first_batches
    from torch.utils.data import DataLoader

    from llmforge.callbacks.epoch_order import EpochOrder
    from llmforge.data.sampler import EpochSampler

    sampler = EpochSampler(40, 8, seed=0)
    loader = prepare_data_loader(
        DataLoader(list(range(40)), batch_size=8 // processes, sampler=sampler),
        num_processes=processes,
        process_index=0,
        put_on_device=False,
    )
    resumed = skip_first_batches(loader, 2)
    resumed.set_epoch(1)  # what Trainer does
    assert sampler.epoch == (1 if processes == 1 else 0)
    EpochOrder(sampler).on_epoch_begin(None, transformers.TrainerState(global_step=5 + 2), None)
    seen = [row for batch in resumed for row in batch.tolist()]
    order = sampler.order(1).reshape(5, processes, 8 // processes)[2:, 0]
    assert seen == order.reshape(-1).tolist()


def test_half_precision_reaches_the_accelerator_where_the_device_has_it(tokenizer, documents, tmp_path, monkeypatch):
    """A CPU with native bf16 is made up; what is trained in is then bf16 under autocast, with fp32 weights."""
    from llmforge.runtime import precision
    from llmforge.runtime.devices import Device

    monkeypatch.setattr(precision, "probe_device", lambda use_cpu=False: Device("cpu", "made up", 2**30, "bf16"))
    rows = packed_rows(documents, tokenizer)
    trainer = forge_trainer(
        tiny_model("gpt2-10m", tokenizer),
        tokenizer,
        tmp_path,
        rows,
        rows,
        max_steps=2,
        precision="bf16",
        per_device_train_batch_size=2,
    )
    assert trainer.accelerator.mixed_precision == "bf16"
    dtypes = []
    trainer.model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, given, made: dtypes.append(made.dtype))
    trainer.train()
    trainer.evaluate()
    assert set(dtypes) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
