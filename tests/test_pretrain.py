"""`llmforge pretrain` in this process: other data, other endings, and what is refused before anything starts."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers import write_documents
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmforge import pretrain
from llmforge.checkpoints.manifest import verify, write_manifest
from llmforge.errors import ConfigError
from llmforge.runtime.commands import run_command

TINY_FLAGS = {
    "gpt2-10m": ["--preset", "gpt2-10m", "--n_layer", "2", "--n_embd", "32", "--n_head", "2"],
    "neox-10m": ["--preset", "neox-10m", "--num_hidden_layers", "2", "--hidden_size", "32", "--num_attention_heads", "2"],
}
SHORT = [
    "--vocab_size",
    "400",
    "--block_size",
    "32",
    "--max_steps",
    "3",
    "--eval_steps",
    "3",
    "--save_steps",
    "3",
    "--report_to",
    "none",
]
SHORT += ["--logging_steps", "1", "--per_device_train_batch_size", "4", "--disable_tqdm"]


def command(*arguments: str, preset: str = "gpt2-10m") -> int:
    """The exit code of `llmforge pretrain` with a tiny model."""
    return run_command(pretrain.main, [*TINY_FLAGS[preset], *SHORT, *arguments])


def record(run: str, name: str = "exit.json") -> dict:
    return json.loads((Path(run) / name).read_text())


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error, which is one line, the last on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


def test_a_run_gets_a_numbered_folder(corpus, preset):
    assert command("--corpus", str(corpus), preset=preset) == 0
    assert command("--corpus", str(corpus), preset=preset) == 0
    first, second = sorted(Path("runs").iterdir())
    assert (first.name, second.name) == (f"pretrain-{preset}-001", f"pretrain-{preset}-002")
    model = AutoModelForCausalLM.from_pretrained(second / "final")
    assert model.config.model_type == {"gpt2-10m": "gpt2", "neox-10m": "gpt_neox"}[preset]
    assert record(second, "run.json")["parameters"] == model.num_parameters()
    assert len(AutoTokenizer.from_pretrained(second / "final")) <= model.config.vocab_size


def test_one_book_is_enough(tmp_path):
    text = "\n\n".join(
        f"Chapter {number}. " + "It was the best of times, it was the worst of times. " * 9 for number in range(400)
    )
    (tmp_path / "book.txt").write_text(text)
    assert command("--corpus", str(tmp_path / "book.txt"), "--output_dir", "run", "--dedup", "off") == 0
    assert record("run", "run.json")["data"]["splits"]["validation"]["documents"] > 1


def test_jsonl_without_validation_or_test(tmp_path):
    lines = [json.dumps({"body": f"func f{number}() error {{ return nil }}"}) for number in range(80)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    arguments = ["--corpus", "data.jsonl", "--text_field", "body", "--split_ratios", "1,0,0", "--output_dir", "run"]
    assert command(*arguments) == 0
    final = record("run", "run.json")["final"]
    assert (final["which"], final["validation"], final["test"]) == ("last", {}, {})
    assert not Path("run/eval.json").exists()


def test_a_prepared_dataset_brings_its_own_block_size(corpus, tmp_path):
    from llmforge import prepare

    assert (
        run_command(prepare.main, ["--corpus", str(corpus), "--vocab_size", "400", "--block_size", "48", "--output_dir", "data"])
        == 0
    )
    assert command("--dataset_dir", "data", "--output_dir", "run") == 0
    assert record("run", "run.json")["config"]["data"]["block_size"] == 48


def test_dry_run_tells_and_writes_nothing(corpus, capsys):
    with pytest.raises(SystemExit) as end:
        command("--corpus", str(corpus), "--dry_run")
    assert end.value.code == 0
    told = capsys.readouterr().out
    for wanted in ("device", "fp32", "parameters", "steps", "tokens"):
        assert wanted in told
    assert not Path("runs").exists()


def test_print_config_reproduces_the_run(corpus, capsys, tmp_path):
    with pytest.raises(SystemExit):
        command("--corpus", str(corpus), "--learning_rate", "1e-3", "--print_config")
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["learning_rate"] == 1e-3
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values))
    assert run_command(pretrain.main, ["--config", "again.yaml"]) == 0
    assert record("runs/pretrain-again-001", "run.json")["config"]["training"]["learning_rate"] == 1e-3


def test_a_diverged_run_says_so_and_keeps_finite_weights(corpus, monkeypatch, capsys):
    stock = pretrain.build_model

    def poisoned(*arguments, **settings):
        model = stock(*arguments, **settings)
        with torch.no_grad():
            model.transformer.ln_f.weight[0] = math.nan
        return model

    monkeypatch.setattr(pretrain, "build_model", poisoned)
    assert command("--corpus", str(corpus), "--output_dir", "run", "--no-eval_on_start") == 6
    assert "Step 1" in last_line(capsys)
    assert record("run")["exit_code"] == 6
    assert not list(Path("run").glob("checkpoint-*"))
    assert not Path("run/final").exists()


def test_ctrl_c_is_recorded_and_can_be_resumed(corpus, monkeypatch, capsys):
    from llmforge.callbacks.run_log import RunLog

    stock = RunLog.on_log

    def interrupt(self, args, state, control, logs=None, **kwargs):
        stock(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "on_log", interrupt)
    steps = ["--save_steps", "1", "--eval_steps", "1"]
    assert command("--corpus", str(corpus), "--output_dir", "run", *steps) == 75
    assert (record("run")["exit_code"], record("run")["reason"], record("run")["newest_checkpoint"]) == (
        75,
        "interrupted",
        "checkpoint-1",
    )
    monkeypatch.setattr(RunLog, "on_log", stock)
    assert command("--corpus", str(corpus), "--output_dir", "run", *steps, "--resume") == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert record("run")["exit_code"] == 0


def test_resume_before_any_checkpoint_starts_at_step_0(corpus):
    Path("run").mkdir()
    assert command("--corpus", str(corpus), "--output_dir", "run", "--resume") == 0
    assert record("run", "run.json")["final"]["step"] == 3


@pytest.fixture(scope="session")
def finished_run(corpus, shared_cache, tmp_path_factory) -> Path:
    """The folder of a run of three steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFORGE_CACHE", str(shared_cache))
        patch.chdir(tmp_path_factory.mktemp("finished"))
        assert command("--corpus", str(corpus), "--output_dir", "run") == 0
        return Path("run").resolve()


@pytest.fixture
def finished(corpus, finished_run) -> str:
    """The corpus of a run that is over, in the folder ``run``."""
    shutil.copytree(finished_run, "run")
    return str(corpus)


def test_a_folder_that_holds_a_run_is_refused(finished, capsys):
    before = Path("run/run.json").read_text()
    assert command("--corpus", finished, "--output_dir", "run") == 2
    assert "--resume" in last_line(capsys)
    assert Path("run/run.json").read_text() == before


def test_resuming_on_other_rows_or_another_model_is_refused(finished, tmp_path, capsys):
    other = write_documents(tmp_path / "other", seed=9)
    assert command("--corpus", str(other), "--output_dir", "run", "--resume") == 2
    assert "other rows" in last_line(capsys)
    assert command("--corpus", finished, "--output_dir", "run", "--resume", "--n_layer", "1") == 2
    assert "--n_layer 2, not 1" in last_line(capsys)


def test_a_preset_s_dropout_that_has_changed_since_is_refused(finished, capsys):
    """The run's own record says as little about it as the command line: both left it to the preset."""
    saved = Path("run/checkpoint-3/config.json")
    text = saved.read_text()
    assert '"embd_pdrop": 0.0' in text
    saved.write_text(text.replace('"embd_pdrop": 0.0', '"embd_pdrop": 0.1'))
    write_manifest(saved.parent, record("run", "run.json")["run_id"], 3)
    assert command("--corpus", finished, "--output_dir", "run", "--resume") == 2
    assert "run has --embd_pdrop 0.1, not 0.0. Give the same, or --accept_changes embd_pdrop" in last_line(capsys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--seed", "7"], "--seed 42, not 7"),
        (["--data_seed", "7"], "--data_seed None, not 7"),
        (["--gradient_accumulation_steps", "3"], "4 rows a step, not 12"),
        (["--per_device_train_batch_size", "2"], "4 rows a step, not 2"),
    ],
)
def test_resuming_in_another_order_of_rows_is_refused(finished, change, told, capsys):
    assert command("--corpus", str(finished), "--output_dir", "run", "--resume", *change) == 2
    assert told in last_line(capsys)


def test_the_same_rows_a_step_in_other_portions_is_the_same_run(finished):
    portions = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--max_steps", "5"]
    assert command("--corpus", str(finished), "--output_dir", "run", "--resume", *portions) == 0
    assert record("run")["step"] == 5


def test_mode_12_each_difference_has_to_be_named_and_is_then_trained_with(finished, capsys):
    words = ["--corpus", finished, "--output_dir", "run", "--resume", "--max_steps", "5", "--logging_steps", "1"]
    words += ["--learning_rate", "0.25", "--weight_decay", "0.5", "--lr_scheduler_type", "constant_with_warmup"]
    assert command(*words) == 2
    refusal = "--accept_changes weight_decay,learning_rate,lr_scheduler_type"
    assert set(last_line(capsys).split(refusal[:17])[1].split()[0].split(",")) == set(refusal.split()[1].split(","))
    assert command(*words, "--accept_changes", "learning_rate,lr_scheduler_type") == 2
    assert "run has --weight_decay 0.1, not 0.5." in last_line(capsys)
    assert command(*words, "--accept_changes", "learning_rate,lr_scheduler_type,weight_decay") == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["learning_rate"] for line in lines if line["step"] > 3 and "learning_rate" in line} == {
        4: 0.25,
        5: 0.25,
    }


def test_mode_10_the_newest_damaged_the_one_before_it_is_taken_and_all_damaged_is_exit_4(finished, capsys):
    words = [
        "--corpus",
        finished,
        "--output_dir",
        "run",
        "--resume",
        "--max_steps",
        "5",
        "--save_steps",
        "1",
        "--eval_steps",
        "1",
    ]
    assert command(*words) == 0
    os.truncate("run/checkpoint-5/model.safetensors", 1000)
    capsys.readouterr()
    assert command(*words) == 0
    told = Path("run/run.log").read_text()
    assert "checkpoint-5 is passed over: model.safetensors: has 1000 bytes" in told
    assert "resuming from checkpoint-4" in told
    assert verify(Path("run/checkpoint-5")) == []
    for path in Path("run").glob("checkpoint-*"):
        (path / "manifest.json").write_text("")
    assert command(*words) == 4
    assert "checkpoints in run can be used" in last_line(capsys)


def test_another_run_s_checkpoint_is_compared_with_that_run(finished, tmp_path, capsys):
    write_documents(tmp_path / "other", seed=5)
    checkpoint = str(Path("run/checkpoint-3").resolve())
    assert command("--corpus", str(tmp_path / "other"), "--output_dir", "new", "--resume", checkpoint) == 2
    assert "was trained on other rows" in last_line(capsys)


def test_while_a_finished_run_goes_on_its_old_end_is_forgotten(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain, "build_trainer", lambda *args: seen.append(sorted(os.listdir("run"))) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("--corpus", str(finished), "--output_dir", "run", "--resume", "--max_steps", "6")
    assert "exit.json" not in seen[0]
    assert "final" not in record("run", "run.json")
    assert record("run")["exit_code"] == 1


def test_resume_by_the_path_of_a_checkpoint_finds_the_run(finished):
    assert command("--corpus", finished, "--resume", "run/checkpoint-3", "--max_steps", "4", "--save_steps", "3") == 0
    assert record("run", "run.json")["final"]["step"] in (3, 4)
    assert Path("run/checkpoint-4").is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--corpus", "nowhere"], 3, "--corpus nowhere: no such file or folder"),
        (["--corpus", "empty"], 3, "--corpus empty is empty"),
        (["--corpus", "CORPUS", "--suffixes", ".rs"], 3, "no file of .rs"),
        ([], 3, "--corpus FOLDER"),
        (["--corpus", "CORPUS", "--dataset_dir", "empty"], 3, "no prepared dataset"),
        (["--corpus", "CORPUS", "--learnin_rate", "1"], 2, "--learning_rate"),
        (["--corpus", "CORPUS", "--learning_rate", "fast"], 2, "fast"),
        (["--corpus", "CORPUS", "--config", "bad.yaml"], 2, "Did you mean learning_rate"),
        (["--corpus", "CORPUS", "--config", "missing.yaml"], 2, "no such file"),
        (["--corpus", "CORPUS", "--block_size", "4096"], 2, "1024 positions"),
        (["--corpus", "CORPUS", "--n_head", "5"], 2, "multiple"),
        (["--corpus", "CORPUS", "--hidden_size", "64"], 2, "GPT-NeoX"),
        (["--corpus", "CORPUS", "--preset", "gpt2-125m"], 2, "gpt2-124m"),
        (["--corpus", "CORPUS", "--precision", "fp16"], 2, "--precision fp32"),
        (["--corpus", "CORPUS", "--output_dir", "bad.yaml"], 2, "is a file"),
        (["--corpus", "CORPUS", "--output_dir", "bad.yaml/run"], 5, "cannot be made"),
        (["--corpus", "CORPUS", "--resume"], 2, "--output_dir"),
        (["--corpus", "CORPUS", "--output_dir", "empty", "--resume", "checkpoint-9"], 4, "checkpoint-9"),
        (["--corpus", "CORPUS", "--eval_steps", "2", "--save_steps", "3", "--load_best_model_at_end"], 2, "do not meet"),
        (["--corpus", "CORPUS", "--metric_for_best_model", "perplexty"], 2, "Known: loss, perplexity, bits_per_byte, accuracy"),
        (["--corpus", "CORPUS", "--early_stopping_threshold", "0.1"], 2, "has no effect without a patience"),
        (["--corpus", "CORPUS", "--auto_find_batch_size"], 2, "--auto_find_batch_size"),
        (["--corpus", "CORPUS", "--temperature", "nan"], 2, "--temperature nan"),
        (
            ["--corpus", "CORPUS", "--early_stopping_patience", "--early_stopping_metric", "f1"],
            2,
            "Known: loss, perplexity, bits_per_byte, accuracy",
        ),
        (["--corpus", "CORPUS", "--early_stopping_patience", "2", "--eval_strategy", "no"], 2, "--eval_strategy no"),
        (["--corpus", "CORPUS", "--histogram_steps", "2"], 2, "--report_to names none"),
        (["--corpus", "CORPUS", "--strategies", "hot"], 2, "--strategies hot"),
        (["--corpus", "CORPUS", "--num_train_epochs", "-3", "--max_steps", "-1"], 2, "--num_train_epochs -3"),
        (["--corpus", "CORPUS", "--adam_beta2", "1.5"], 2, "--adam_beta2 1.5"),
        (["--corpus", "CORPUS", "--seed", "-1"], 2, "--seed -1"),
        (["--corpus", "CORPUS", "--split_ratios", "0.9,0.1,0.1"], 2, "add up to 1"),
        (["--corpus", "CORPUS", "--split_ratios", "1,0,0", "--load_best_model_at_end"], 2, "validation data"),
        (["--corpus", "CORPUS", "--split_ratios", "1,0,0", "--early_stopping_patience", "2"], 2, "validation data"),
        (["--corpus", "CORPUS", "--split_ratios", "0.999999,0.000001,0"], 3, "validation split got none"),
        (["--corpus", "CORPUS", "--tokenizer", "empty"], 2, "--tokenizer empty"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, code, told, corpus, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("learn_rate: 1\n")
    arguments = [str(corpus) if item == "CORPUS" else item for item in arguments]
    assert command(*arguments) == code
    assert told in last_line(capsys)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())
    assert sorted(os.listdir("empty")) == []


def test_a_prompt_longer_than_the_context_is_refused_before_the_first_step(corpus, capsys):
    assert command("--corpus", str(corpus), "--output_dir", "run", "--prompts", "func " * 3000) == 2
    assert "the model has 1024 positions" in last_line(capsys)
    assert not (Path("run") / "metrics.jsonl").exists()
    assert record("run")["exit_code"] == 2


def test_an_optimizer_whose_package_is_missing_is_one_line(corpus, capsys):
    assert (
        command("--corpus", str(corpus), "--output_dir", "run", "--optim", "galore_adamw", "--optim_target_modules", "all-linear")
        == 2
    )
    assert "galore" in last_line(capsys).lower()


def test_where_saves_miss_evaluations_the_last_model_is_kept_and_that_is_said(corpus, capsys):
    assert command("--corpus", str(corpus), "--output_dir", "run", "--eval_steps", "2", "--save_steps", "3") == 0
    assert "final/ will hold the last model" in capsys.readouterr().err
    assert record("run", "run.json")["final"]["which"] == "last"


def test_figures_of_a_part_of_the_test_split_say_so(corpus):
    assert command("--corpus", str(corpus), "--output_dir", "run", "--max_eval_samples", "1") == 0
    told = record("run", "eval.json")
    assert told["rows"] == 1 < told["rows_of"]
    assert f"test (1 of {told['rows_of']} rows)" in (Path("run") / "final" / "README.md").read_text()


def test_a_full_disk_is_recorded_as_one(corpus, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", full)
    assert command("--corpus", str(corpus), "--output_dir", "run", "--save_steps", "1", "--eval_steps", "1") == 5
    assert "3 checkpoints in a row could not be saved" in last_line(capsys)
    assert record("run")["exit_code"] == 5
    assert record("run")["step"] == 3


def test_a_config_made_by_hand_is_checked_as_well(corpus, tmp_path):
    from llmforge.configs.data import DataArguments
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.run import PretrainConfig
    from llmforge.configs.training import ForgeTrainingArguments

    def config() -> PretrainConfig:
        training = ForgeTrainingArguments(max_steps=2, report_to=["none"], disable_tqdm=True)
        model = ModelArguments(preset="gpt2-10m", n_layer=2, n_embd=32, n_head=2)
        return PretrainConfig(training=training, model=model, data=DataArguments(corpus=str(corpus), block_size=32))

    folders = [pretrain.pretrain_model(config()).folder for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/pretrain-001", "runs/pretrain-002"]
    assert record(folders[0], "run.json")["tokenizer"]["requested_vocab_size"] == 8192  # the preset's


def test_weights_that_a_step_broke_are_found_before_they_are_sampled_from(corpus, capsys):
    """The loss and the gradient of the step were finite; sampling from what it left would end in a traceback."""
    wild = ["--learning_rate", "1e38", "--warmup_steps", "0", "--max_grad_norm", "0", "--optim", "sgd", "--eval_steps", "1"]
    assert command("--corpus", str(corpus), "--output_dir", "run", "--prompts", "func", "--save_steps", "3", *wild) == 6
    last_line(capsys)
    assert record("run")["exit_code"] == 6
    assert not list(Path("run").glob("checkpoint-*"))


def test_how_it_ended_is_told_even_where_it_cannot_be_recorded(corpus, monkeypatch, capsys):
    from llmforge.errors import StorageError
    from llmforge.runtime.run_folder import RunFolder

    def full(*args, **kwargs):
        raise StorageError("Cannot write exit.json.")

    monkeypatch.setattr(RunFolder, "write_exit", full)
    monkeypatch.setattr(pretrain, "build_trainer", lambda *args: (_ for _ in ()).throw(ConfigError("It is wrong.", "Mend it.")))
    assert command("--corpus", str(corpus), "--output_dir", "run") == 2
    assert "It is wrong. Mend it." in last_line(capsys)


def test_a_vocabulary_that_the_data_cannot_fill_is_explained(tmp_path, capsys):
    write_documents(tmp_path / "text", count=60)
    assert command("--corpus", "text", "--vocab_size", "32000") == 0
    assert "of the 32,000 asked for" in capsys.readouterr().err
    tokenizer = record("runs/pretrain-gpt2-10m-001", "run.json")["tokenizer"]
    assert tokenizer["vocab_size"] < 1000
    assert tokenizer["requested_vocab_size"] == 32000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Makes this the first process of one of two machines."""

    def install(number: int) -> None:
        ranks = {"RANK": number, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
        for name, value in ranks.items():
            monkeypatch.setenv(name, str(value))

    return install


def test_the_second_machine_may_find_the_folder_in_use(corpus, machine, tmp_path):
    """The first one has begun to write it; a run that was there before is refused by the first."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    flags = [*TINY_FLAGS["gpt2-10m"], *SHORT, "--corpus", str(corpus), "--output_dir", "run"]
    machine(1)
    assert pretrain.parse_pretrain(flags).training.output_dir == "run"
    machine(0)
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain.parse_pretrain(flags)


@pytest.mark.parametrize("number", [0, 1])
def test_two_machines_need_a_folder_in_common(corpus, machine, number):
    machine(number)
    with pytest.raises(ConfigError, match="same --output_dir"):
        pretrain.parse_pretrain([*TINY_FLAGS["gpt2-10m"], *SHORT, "--corpus", str(corpus)])
