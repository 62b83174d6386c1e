"""`llmforge finetune` in this process: all weights and adapters, resumed and merged, and what is refused before step 1."""

from __future__ import annotations

import json
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, pipeline

from llmforge import auto_batch, evaluation, finetune, pretrain
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.configs.finetune import FinetuneArguments, FinetuneConfig
from llmforge.configs.lora import LoraArguments
from llmforge.configs.tuning import FinetuneTrainingArguments
from llmforge.errors import ConfigError
from llmforge.runtime.commands import run_command
from llmforge.tasks.files import BUILT_IN, load_task
from llmforge.trainer import ForgeTrainer
from llmforge.tuning.start import fit_embeddings, grow_tokenizer, load_start, set_dropout, tuned_model

WORDS = "func return err nil if for range string int error path data open close read write".split()
QUIET = ["--report_to", "none", "--disable_tqdm", "--logging_steps", "1", "--per_device_train_batch_size", "4", "--prompts"]
LORA = ["--lora", "--lora_r", "4", "--lora_dropout", "0.1"]


@pytest.fixture(scope="module")
def bases(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A tiny model with dropout of each architecture, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("bases")
    for preset in ("gpt2-10m", "neox-10m"):
        tiny_model(preset, tokenizer, dropout=True).save_pretrained(folder / preset)
        tokenizer.save_pretrained(folder / preset)
    return {preset: folder / preset for preset in ("gpt2-10m", "neox-10m")}


@pytest.fixture
def base(bases, preset) -> Path:
    return bases[preset]


@pytest.fixture(autouse=True)
def rows() -> Path:
    """Twenty-four questions in a folder as `llmforge convert` leaves it."""
    source = random.Random(0)
    folder = Path("rows")
    folder.mkdir()
    for name, count in (("train", 16), ("validation", 4), ("test", 4)):
        made = [
            {key: " ".join(source.choices(WORDS, k=source.randint(2, 8))) for key in ("question", "answer")} for _ in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    BUILT_IN["qa"].save(folder)
    return folder


def command(base: Path, *words: str) -> int:
    return run_command(finetune.main, ["--from_pretrained", str(base), *QUIET, *words])


def record(run: str, name: str = "run.json") -> dict:
    return json.loads((Path(run) / name).read_text())


def settings(folder: Path, **changes) -> FinetuneConfig:
    args = FinetuneTrainingArguments(output_dir=str(folder), report_to=["none"])
    lora = LoraArguments(**changes.pop("lora", {}))
    return FinetuneConfig(
        training=args, finetune=FinetuneArguments(from_pretrained=str(changes.pop("base")), **changes), lora=lora
    )


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(2, 22).reshape(2, 10)).logits


# Adapters


def test_adapters_train_what_they_should_and_nothing_else(base, preset, tmp_path):
    before = load_file(base / "model.safetensors")
    assert command(base, "--train_file", "rows", *LORA, "--max_steps", "4", "--learning_rate", "0.01", "--output_dir", "run") == 0
    assert load_file(base / "model.safetensors").keys() == before.keys()
    saved = load_file("run/final/adapter_model.safetensors")
    layers = {"gpt2-10m": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")}.get(
        preset, ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h")
    )
    assert len(saved) == 2 * 2 * len(layers)  # A and B, two blocks
    assert all(any(f".{layer}.lora_" in name for layer in layers) for name in saved)
    assert all(tensor.abs().sum() > 0 for name, tensor in saved.items() if "lora_B" in name)  # which begin as zeros
    config = settings(tmp_path, base=base, lora={"lora": True, "lora_r": 4})
    start = load_start(config)
    config.base = start.found.model.config
    model = tuned_model(start, config)
    trained = [name for name, part in model.named_parameters() if part.requires_grad]
    assert len(trained) == len(saved)
    assert all("lora_" in name for name in trained)
    assert record("run")["config"]["lora"]["lora_r"] == 4
    for path in sorted(Path("run").glob("checkpoint-*")):
        assert {item.name for item in path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json", "optimizer.pt"}
        assert not (path / "model.safetensors").exists()
    # The model itself is as it was, step for step.
    for name, tensor in model.get_base_model().state_dict().items():
        if "lora_" not in name and name.replace(".base_layer", "") in before:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")]), name


def test_adapters_reload_with_plain_peft_and_merged_they_are_the_same(base):
    from peft import PeftModel

    common = ["--train_file", "rows", *LORA, "--max_steps", "4", "--learning_rate", "0.01"]
    assert command(base, *common, "--output_dir", "run") == 0
    assert command(base, *common, "--merge", "--output_dir", "merged") == 0
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "run/final")
    merged = AutoModelForCausalLM.from_pretrained("merged/final")
    apart, together = logits_of(adapted), logits_of(merged)
    assert (apart - together).abs().max() < 1e-5
    assert (apart - logits_of(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2  # they do something
    assert not any("lora" in name for name in merged.state_dict())
    written = [
        pipeline("text-generation", model=f"{run}/final")("func", max_new_tokens=5, do_sample=False)[0]["generated_text"]
        for run in ("run", "merged")
    ]
    assert written[0] == written[1] != "func"
    assert record("run")["final"]["validation"]["loss"] == record("merged")["final"]["validation"]["loss"]
    for run in ("run", "merged"):
        assert load_task(f"{run}/final") == BUILT_IN["qa"]
        assert AutoTokenizer.from_pretrained(f"{run}/final").get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


# Resume


@pytest.mark.parametrize(("preset", "adapters"), [("gpt2-10m", True), ("neox-10m", False)], ids=["lora", "full"])
def test_a_resume_is_the_same_bit_for_bit(bases, preset, adapters):
    """Dropout is on, in the model and before the adapters: a random state out of step would show."""
    words = [
        "--train_file",
        "rows",
        "--max_steps",
        "6",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--eval_strategy",
        "steps",
    ]
    words += ["--eval_steps", "2", "--learning_rate", "0.01", *(LORA if adapters else ["--dropout", "0.2"])]
    base = bases[preset]
    assert command(base, *words, "--output_dir", "whole") == 0
    shutil.copytree("whole", "cut")
    for name in ("checkpoint-4", "checkpoint-6", "final"):
        shutil.rmtree(Path("cut") / name)
    assert command(base, *words, "--output_dir", "cut", "--resume") == 0
    weights = "adapter_model.safetensors" if adapters else "model.safetensors"
    for folder in ("checkpoint-6", "final"):
        one, other = (load_file(Path(run) / folder / weights) for run in ("whole", "cut"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [
        [
            {key: line.get(key) for key in ("step", "loss", "eval_loss", "grad_norm")}
            for line in map(json.loads, text.splitlines())
        ]
        for text in ((Path(run) / "metrics.jsonl").read_text() for run in ("whole", "cut"))
    ]
    assert lines[0] == lines[1]


def test_a_resume_with_other_adapters_is_refused(bases, capsys):
    words = ["--train_file", "rows", "--output_dir", "run", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"]
    words += ["--eval_strategy", "no", "--lora"]
    assert command(bases["gpt2-10m"], *words) == 0
    assert command(bases["gpt2-10m"], *words, "--lora_r", "8", "--resume") == 2
    assert "run has --lora_r 16, not 8" in capsys.readouterr().err


# Starting points


def test_a_model_without_the_prefix_and_one_in_a_bin(bases, tmp_path):
    """As `gpt2` itself lies on the hub: tensors are called `h.0.…`, not `transformer.h.0.…`."""
    base = bases["gpt2-10m"]
    for name in ("bare", "bin"):
        shutil.copytree(base, tmp_path / name)
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert "h.0.attn.c_attn.weight" in bare
    save_file(bare, tmp_path / "bare" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    expected = logits_of(AutoModelForCausalLM.from_pretrained(base))
    for name in ("bare", "bin"):
        start = load_start(settings(tmp_path, base=tmp_path / name))
        assert torch.equal(logits_of(start.found.model), expected)
        assert start.found.model.dtype == torch.float32


def test_a_half_precision_model_is_trained_in_fp32(bases, tmp_path):
    AutoModelForCausalLM.from_pretrained(bases["neox-10m"], dtype=torch.float16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(bases["neox-10m"]).save_pretrained(tmp_path / "half")
    start = load_start(settings(tmp_path, base=tmp_path / "half"))
    assert {part.dtype for part in start.found.model.parameters()} == {torch.float32}


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def _edit(folder: Path, name: str, **changes) -> None:
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(values))


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Payload()}, folder / "pytorch_model.bin")


def _foreign(folder: Path) -> None:
    BertConfig().save_pretrained(folder)


def _other_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<{number}>" for number in range(2000)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: _edit(folder, "config.json", auto_map={"AutoConfig": "x.Y"}), "has an auto_map"),
        (_pickle, "pickle that needs more than tensors"),
        (_foreign, "another architecture: bert"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (_other_tokenizer, "not of one model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    ],
    ids=["auto_map", "pickle", "architecture", "no tokenizer", "tokenizer", "no weights"],
)
def test_a_model_that_is_not_to_be_trusted_is_refused_before_step_1(bases, tmp_path, capsys, spoil, told):
    shutil.copytree(bases["gpt2-10m"], tmp_path / "model")
    spoil(tmp_path / "model")
    assert command(tmp_path / "model", "--train_file", "rows", "--output_dir", "run") == 4
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --from_pretrained ")
    assert told in error
    assert not Path("ran").exists()
    assert not Path("run/run.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "There is nothing to train on. Give one of --train_file, --corpus, --dataset_dir"),
        (["--train_file", "rows", "--corpus", "rows"], 2, "--train_file and --corpus are all given"),
        (["--train_file", "nothing.jsonl"], 3, "--train_file nothing.jsonl: no such file"),
        (["--train_file", "rows/train.jsonl", "--validation_file", "v.jsonl"], 3, "--validation_file v.jsonl: no such file"),
        (["--train_file", "rows", "--test_file", "tset.jsonl"], 3, "--test_file tset.jsonl: no such file"),
        (["--train_file", "bad/train.jsonl"], 3, "train.jsonl:2: the field 'answer' of the task qa is missing"),
        (["--train_file", "bad/odd.jsonl"], 2, "odd.jsonl:1 is of no built-in task: it has text"),
        (["--train_file", "bad/json.jsonl"], 3, "json.jsonl:1: line that is no JSON"),
        (["--train_file", "rows", "--task", "qaa"], 2, "--task qaa: no such file"),
        (["--train_file", "rows", "--block_size", "4096"], 2, "--block_size 4096 is longer than the model's 1024 positions"),
        (["--train_file", "rows", "--lora_r", "4"], 2, "--lora_r 4 has no effect without adapters. Give --lora too."),
        (
            ["--train_file", "rows", "--lora", "--lora_targets", "q_proj"],
            2,
            "--lora_targets q_proj: the model has no linear layer",
        ),
        (["--train_file", "rows", "--lora", "--add_tokens", "<A>"], 2, "--add_tokens needs new rows in the embeddings"),
        (["--train_file", "rows", "--dropout", "1"], 2, "--dropout 1.0 is no dropout"),
        (["--train_fiel", "rows"], 2, "Did you mean --train_file"),
    ],
)
def test_mistakes_are_one_line(bases, capsys, words, code, told):
    Path("bad").mkdir()
    Path("bad/train.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "c"}\n')
    Path("bad/odd.jsonl").write_text('{"text": "a"}\n')
    Path("bad/json.jsonl").write_text("{\n")
    assert command(bases["gpt2-10m"], *words, "--output_dir", "run") == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error
    assert not Path("run/run.json").exists()


# Tokens, dropout, text


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_get_the_mean_of_the_known_ones(tokenizer, preset, tied, tmp_path):
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model
    from llmforge.tokenization import load_pretrained

    tokenizer.save_pretrained(tmp_path)
    own = load_pretrained(tmp_path)
    width = (
        {"n_layer": 1, "n_embd": 32, "n_head": 2}
        if preset == "gpt2-10m"
        else {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    )
    model = build_model(ModelArguments(preset=preset, tie_word_embeddings=tied, initializer_range=0.2, **width), own)
    known, rows = len(own), model.config.vocab_size
    before = [table.weight.detach().clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    grow_tokenizer(own, [f"<T{number}>" for number in range(rows - known + 3)])  # spare rows, and three beyond them
    fit_embeddings(model, own, known)
    assert model.config.vocab_size % 64 == 0
    assert model.config.vocab_size > rows
    tables = [table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert (tables[0] is tables[1]) == tied
    for weight, old in zip(tables, before, strict=True):
        assert torch.equal(weight[:known], old[:known])
        assert torch.allclose(weight[known:], old[:known].mean(0).expand(len(weight) - known, -1))
    assert model.generation_config.suppress_tokens == [own.pad_token_id, *range(len(own), model.config.vocab_size)]
    assert own("<T1>")["input_ids"] == [known + 1]


def test_padding_and_tokens_are_added_and_saved(bases, tokenizer, tmp_path):
    """A tokenizer without padding, as GPT-2's own, and a token that the rows use."""
    shutil.copytree(bases["gpt2-10m"], tmp_path / "model")
    _edit(tmp_path / "model", "tokenizer_config.json", pad_token=None)
    text = Path("rows/train.jsonl").read_text().replace("func", "<CODE> func")
    Path("rows/train.jsonl").write_text(text)
    assert (
        command(tmp_path / "model", "--train_file", "rows", "--max_steps", "2", "--add_tokens", "<CODE>", "--output_dir", "run")
        == 0
    )
    final = AutoTokenizer.from_pretrained("run/final")
    [code] = final("<CODE>", add_special_tokens=False)["input_ids"]
    assert code == len(tokenizer)
    data = json.loads((Path(record("run")["data"]["path"]) / "data_card.json").read_text())
    assert data["tokenizer"]["pad_token_id"] == final.pad_token_id != final.eos_token_id
    model = AutoModelForCausalLM.from_pretrained("run/final")
    assert model.config.pad_token_id == final.pad_token_id
    assert len(final) <= model.config.vocab_size


def test_from_scratch_takes_shape_and_tokenizer_and_no_weight(bases, preset, tmp_path, capsys):
    base = bases[preset]
    made = [load_start(settings(tmp_path / "run", base=base, from_scratch=True)) for _ in range(2)]
    plain = load_start(settings(tmp_path / "run", base=base))
    drawn = made[0].found.model.state_dict()
    for name, weights in plain.found.model.state_dict().items():
        if weights.ndim == 2:
            assert not torch.equal(weights, drawn[name]), name
    again = made[1].found.model.state_dict()
    assert all(torch.equal(again[name], weights) for name, weights in drawn.items())
    assert made[0].found.model.config.to_dict() == plain.found.model.config.to_dict()
    assert made[0].tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    if preset == "gpt2-10m":
        assert command(base, "--train_file", "rows", "--output_dir", "run", "--from_scratch", "--lora") == 2
        assert "--from_scratch draws the weights anew" in capsys.readouterr().err
        assert command(base, "--train_file", "rows", "--output_dir", "run", "--from_scratch", "--max_steps", "1") == 0
        assert "trained from scratch with llmforge in the shape of" in Path("run/final/README.md").read_text()


def test_dropout_is_set_everywhere(preset, tokenizer):
    model = tiny_model(preset, tokenizer).train()
    ids = torch.arange(2, 22).reshape(2, 10)
    assert torch.equal(model(ids).logits, model(ids).logits)
    set_dropout(model, 0.3)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    shares = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    shares += [module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")]
    assert set(shares) == {0.3}
    named = {
        key: value
        for key, value in model.config.to_dict().items()
        if "drop" in key and key not in ("summary_first_dropout", "classifier_dropout")
    }
    assert set(named.values()) == {0.3}


def test_training_goes_on_on_plain_text(base, corpus):
    assert command(base, "--corpus", str(corpus), "--block_size", "32", "--max_steps", "2", "--output_dir", "run") == 0
    assert load_task("run/final") is None
    told = record("run")
    assert told["data"]["splits"]["train"]["documents"] > 30
    assert told["final"]["validation"]["loss"] > 0
    assert "for: plain text" in Path("run/final/README.md").read_text()


def test_a_single_file_is_split_and_the_best_is_kept(base, tmp_path, capsys):
    lines = Path("rows/train.jsonl").read_text() + Path("rows/validation.jsonl").read_text() + Path("rows/test.jsonl").read_text()
    Path("all.jsonl").write_text(lines)
    words = [
        "--train_file",
        "all.jsonl",
        "--dedup_threshold",
        "0.9",
        "--split_seed",
        "1",
        "--num_train_epochs",
        "2",
        "--output_dir",
        "run",
    ]
    assert command(base, *words) == 0
    splits = record("run")["data"]["splits"]
    assert sum(split["documents"] for split in splits.values()) == 24
    assert set(splits) == {"train", "validation", "test"}
    assert record("run", "eval.json")["split"] == "test"


def test_prompts_in_both_are_told(bases, capsys):
    row = '{"prompt": "if", "completion": " nil"}\n'
    Path("a.jsonl").write_text(row + '{"prompt": "for", "completion": " nil"}\n')
    Path("b.jsonl").write_text(row)
    words = ["--train_file", "a.jsonl", "--validation_file", "b.jsonl", "--dry_run"]
    with pytest.raises(SystemExit):
        command(bases["gpt2-10m"], *words)
    told = capsys.readouterr()
    assert "1 of the 1 prompts of the validation rows are in the training rows as well" in told.out + told.err
    assert "documents: train 2, validation 1" in told.out + told.err
    assert not Path("runs").exists()


def test_on_text_rows_are_as_long_as_those_of_the_base(bases, corpus):
    """Its 1,024 positions it has, but past its own rows it was never trained on any."""
    base = Path("scratch/final")
    shutil.copytree(bases["gpt2-10m"], base)
    Path("scratch/run.json").write_text(json.dumps({"config": {"data": {"block_size": 64}}}))
    words = ["--corpus", str(corpus), "--max_steps", "1", "--save_strategy", "no", "--eval_strategy", "no"]
    assert command(base, *words, "--output_dir", "run") == 0
    assert record("run")["config"]["data"]["block_size"] == 64
    assert command(base, *words, "--block_size", "32", "--output_dir", "other") == 0
    assert record("other")["config"]["data"]["block_size"] == 32


def test_short_rows_take_nothing_from_the_context(bases):
    """Rows as long as the examples need say nothing of what the model can see: its base's context is its own."""
    from llmforge.pretrained.loading import load_pretrained_model

    base = Path("scratch/final")
    shutil.copytree(bases["gpt2-10m"], base)
    Path("scratch/run.json").write_text(json.dumps({"config": {"data": {"block_size": 256}}}))
    words = ["--train_file", "rows", "--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    assert command(base, *words, "--output_dir", "run") == 0
    assert record("run")["config"]["data"]["block_size"] == 64
    for folder in ("run", "run/checkpoint-1"):
        assert load_pretrained_model(folder).context == 256  # what the base was trained on from scratch, of its 1,024 positions
    Path("run/run.json").write_text(json.dumps({"config": {"data": {"block_size": 64}, "finetune": {}}}))  # one that did not end
    assert load_pretrained_model("run/checkpoint-1").context == 1024


def test_lora_settings_that_cannot_be():
    for wrong in ({"lora_r": 0}, {"lora_alpha": 0.0}, {"lora_dropout": 1.0}):
        with pytest.raises(ConfigError):
            LoraArguments(lora=True, **wrong)
    assert LoraArguments(lora=True, lora_targets=["c_attn,c_fc"]).targets("gpt2") == ["c_attn", "c_fc"]


def test_the_model_is_asked_by_the_fields_of_its_task(bases, tmp_path, capsys):
    from llmforge import generate

    shutil.copytree(bases["gpt2-10m"], tmp_path / "model")
    BUILT_IN["qa"].save(tmp_path / "model")

    def ask(*words: str) -> int:
        return run_command(generate.main, ["--model", str(tmp_path / "model"), "--max_new_tokens", "4", "--json", *words])

    assert ask("--field", "question=open a file", "--field=context=if a=b") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "if a=b\n\nQuestion: open a file\nAnswer:"
    assert ask("--task", "chat", "--prompt", "hi") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "User: hi\n\nAssistant:"
    for words, code, told in (
        (["--field", "questoin=x"], 2, "Did you mean question?"),
        (["--field", "context=x"], 3, "the field 'question' of the task qa is missing"),
        (["--field", "question=x", "--prompt", "y"], 2, "--field question=x does not go with --prompt"),
    ):
        assert ask(*words) == code
        assert told in capsys.readouterr().err
    (tmp_path / "model" / "task.yaml").unlink()
    assert ask("--field", "question=x") == 2
    assert "there is no task.yaml beside the model" in capsys.readouterr().err


def test_the_run_is_scored_again(bases, capsys):
    words = ["--train_file", "rows", "--output_dir", "run", "--max_steps", "2", "--lora"]
    assert command(bases["gpt2-10m"], *words) == 0
    before = record("run", "eval.json")
    Path("run/eval.json").unlink()
    with pytest.raises(SystemExit) as ended:
        command(bases["gpt2-10m"], *words, "--eval_only")
    assert ended.value.code == 0
    again = record("run", "eval.json")
    with pytest.raises(SystemExit):
        command(bases["gpt2-10m"], *words, "--eval_only", "--resume", "run/checkpoint-2")
    assert record("run", "eval-checkpoint-2.json")["tokens"] == again["tokens"]
    assert again["loss"] == pytest.approx(before["loss"], rel=1e-6)
    assert again["tokens"] == before["tokens"]
    capsys.readouterr()
    # As text the prompts would count.
    assert run_command(evaluation.main, ["--model", "run/checkpoint-2"]) == 2
    assert "There is no text to evaluate on" in capsys.readouterr().err
    assert run_command(pretrain.main, ["--output_dir", "run", "--eval_only"]) == 3
    assert "There is no corpus" in capsys.readouterr().err
    seen = {"rows/test.jsonl": [], "rows --split test": [], "rows --split train": ["rows/train.jsonl"]}
    for given, trained_on in seen.items():
        words = ["--test_file", *given.split(), "--max_new_tokens", "1", "--samples", "0"]
        assert evaluation.main(["--model", "run", *words]).settings["trained_on"] == trained_on


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("preset", ["gpt2-10m"])
def test_two_processes_train_as_one_does(base, adapters):
    """The same rows a step, launched as the docs say: the same losses, gradients and figures.

    Not the same weights: AdamW makes a step of full length of a gradient that is nothing but rounding, as a key's bias has it.
    """
    words = [
        "--from_pretrained",
        str(base),
        "--train_file",
        "rows",
        "--max_steps",
        "6",
        "--learning_rate",
        "0.01",
        "--dropout",
        "0",
    ]
    words += [
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "3",
        "--save_strategy",
        "steps",
        "--save_steps",
        "3",
        "--logging_steps",
        "1",
    ]
    words += ["--report_to", "none", "--prompts", "if", "--gradient_accumulation_steps", "2", "--block_size", "32"]
    words += ["--lora", "--lora_r", "4"] if adapters else []
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch"]
    configs = ROOT / "accelerate_configs"
    two = [*launch, "--config_file", str(configs / "cpu_ddp.yaml"), "--num_processes", "2", "-m", "llmforge", "finetune", *words]
    one = [sys.executable, "-m", "llmforge", "finetune", *words]
    for run, command, rows in (("one", one, "2"), ("two", two, "1")):
        shown = subprocess.run(
            [*command, "--output_dir", run, "--per_device_train_batch_size", rows],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-4000:]
    assert (record("one")["processes"], record("two")["processes"]) == (1, 2)
    lines = [
        [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines() if "train_runtime" not in line]
        for run in ("one", "two")
    ]
    for key in ("step", "loss", "grad_norm", "eval_loss", "eval_accuracy", "eval_tokens"):
        first, second = ([line[key] for line in run if key in line] for run in lines)
        assert len(first) >= 2
        assert first == pytest.approx(second, rel=2e-5)
    assert record("one", "eval.json")["loss"] == pytest.approx(record("two", "eval.json")["loss"], rel=2e-5)


def test_out_of_memory_begins_again_with_the_model_as_it_was_given(bases, monkeypatch):
    """In the recipe, before anything was saved; nothing of the steps that were made is left."""
    monkeypatch.setattr(LossPlot, "_draw", lambda *_, **__: None)
    words = ["--train_file", "rows", "--max_steps", "3", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    words += ["--dropout", "0", "--learning_rate", "0.01", "--eval_strategy", "no"]
    assert command(bases["gpt2-10m"], "--output_dir", "whole", *words) == 0
    real = ForgeTrainer.training_step

    def training_step(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 2 and len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ForgeTrainer, "training_step", training_step)
    monkeypatch.setattr(auto_batch, "largest_rows", lambda setup, share, room: share)
    recipe = runpy.run_path(str(ROOT / "recipes" / "finetune_gearhead.py"), run_name="recipe")["main"]
    recipe(["--from_pretrained", str(bases["gpt2-10m"]), *QUIET, "--output_dir", "broken", *words, "--auto_batch"])
    assert [batch["per_device_train_batch_size"] for batch in record("broken")["batches"]] == [4, 2]
    whole, broken = (
        [line["loss"] for line in map(json.loads, Path(name, "metrics.jsonl").read_text().splitlines()) if "loss" in line]
        for name in ("whole", "broken")
    )
    assert len(whole) == 3
    assert broken == pytest.approx(whole, rel=1e-5)
