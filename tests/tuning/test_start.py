"""Adapters on a base as the hub has it: `gpt2` has no padding, and no row in its embeddings that stands for no token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from llmforge import evaluation, finetune, generate
from llmforge.configs.finetune import FinetuneConfig
from llmforge.configs.lora import LoraArguments
from llmforge.configs.tuning import FinetuneTrainingArguments
from llmforge.errors import CheckpointError
from llmforge.pretrained.adapters import _TABLE, merge_adapter
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.runtime.commands import run_command
from llmforge.tuning.shape import shape_of

QUIET = ["--report_to", "none", "--disable_tqdm", "--logging_steps", "1", "--per_device_train_batch_size", "4", "--prompts", "if"]
LORA = ["--lora", "--lora_r", "4", "--learning_rate", "0.02", "--save_strategy", "steps", "--save_steps", "1", "--max_steps", "2"]


def published(folder: Path, kind: str, tied: bool) -> Path:
    """A model whose rows are just its tokens."""
    text = ["func return err nil if for range string int error path data open close read write"] * 3
    tokenizer = GPT2Tokenizer().train_new_from_iterator(text, 300)
    torch.manual_seed(0)
    common = {"vocab_size": len(tokenizer), "initializer_range": 0.2, "tie_word_embeddings": tied}
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=128, **common, **ends))
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, max_position_embeddings=128, **common, **ends))
    assert tokenizer.pad_token_id is None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(
    params=[
        ("gpt2", True),
        pytest.param(("gpt2", False), marks=pytest.mark.slow),
        pytest.param(("gpt_neox", True), marks=pytest.mark.slow),
        ("gpt_neox", False),
    ],
    ids=lambda param: f"{param[0]}-{'tied' if param[1] else 'untied'}",
)
def base(request, tmp_path) -> Path:
    rows = [{"prompt": f"open {word}", "completion": f" {word} nil"} for word in "func err path data int string".split()]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return published(tmp_path / "base", *request.param)


def tuned(base: Path, *words: str) -> int:
    files = ["--train_file", "rows.jsonl", "--validation_file", "rows.jsonl", "--test_file", "rows.jsonl"]
    return run_command(finetune.main, ["--from_pretrained", str(base), *files, *QUIET, *words])


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(2, 22).reshape(2, 10)).logits


def figures(run: str) -> dict:
    return json.loads(Path(run, "eval.json").read_text())


def test_adapters_on_a_base_without_padding(base, capsys):
    """Trained, resumed, scored again, merged, opened by plain peft, asked: embeddings and tokenizer stay as they are."""
    from peft import PeftModel

    known = len(AutoTokenizer.from_pretrained(base))
    assert tuned(base, *LORA, "--output_dir", "run") == 0
    shutil.copytree("run", "cut")
    for name in ("checkpoint-2", "final"):
        shutil.rmtree(Path("cut") / name)
    assert tuned(base, *LORA, "--output_dir", "cut", "--resume") == 0
    one, other = (load_file(f"{run}/final/adapter_model.safetensors") for run in ("run", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    for folder in ("run/checkpoint-2", "run/final"):
        assert json.loads(Path(folder, "base.json").read_text())["path"] == str(base)
        assert len(AutoTokenizer.from_pretrained(folder)) == known
        assert Path(folder, "task.yaml").is_file()
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
        found = load_pretrained_model(folder)
        assert found.model.config.vocab_size == known
        assert (logits_of(adapted) - logits_of(found.model)).abs().max() < 1e-5
        command = ["--model", folder, "--prompt", "open err", "--json", "--max_new_tokens", "4"]
        assert run_command(generate.main, command) == 0

    # Scored again: by the run, by a checkpoint's name, and from outside, all the same figures.
    before = figures("run")
    Path("run/eval.json").unlink()
    for words in ([], ["--resume", "checkpoint-2"]):
        with pytest.raises(SystemExit) as ended:
            tuned(base, *LORA, "--output_dir", "run", "--eval_only", *words)
        assert ended.value.code == 0
    assert figures("run")["loss"] == pytest.approx(before["loss"], rel=1e-6)

    assert tuned(base, *LORA, "--merge", "--output_dir", "merged") == 0
    merged = AutoModelForCausalLM.from_pretrained("merged/final")
    assert merged.config.vocab_size == known
    assert (logits_of(merged) - logits_of(adapted)).abs().max() < 1e-5
    assert figures("merged")["loss"] == before["loss"]
    assert load_pretrained_model("merged/final").tokenizer.pad_token_id is None

    # An adapter of another base is refused, from a checkpoint as from final/.
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if "layernorm.bias" in name or "ln_1.bias" in name)
    save_file(tensors | {name: tensors[name] + 1}, base / "model.safetensors", metadata={"format": "pt"})
    for folder in ("run/checkpoint-2", "run/final"):
        with pytest.raises(CheckpointError, match="trained on other weights"):
            load_pretrained_model(folder)
    path = Path("run/checkpoint-2/adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"is damaged: .*adapter_model"):
        load_pretrained_model("run/checkpoint-2")


@pytest.mark.parametrize("base", [("gpt2", True)], indirect=True, ids=["gpt2"])
def test_all_weights_of_a_base_without_padding(base, capsys):
    words = ["--output_dir", "run", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"]
    assert tuned(base, *words) == 0
    before = figures("run")
    with pytest.raises(SystemExit):
        tuned(base, *words, "--eval_only")
    assert figures("run")["loss"] == pytest.approx(before["loss"], rel=1e-6)
    for folder in ("run/checkpoint-1", "run/final"):
        found = load_pretrained_model(folder)
        assert found.model.config.vocab_size % 64 == 0
        assert found.tokenizer.pad_token_id == len(AutoTokenizer.from_pretrained(base))


@pytest.mark.parametrize("base", [("gpt_neox", False)], indirect=True, ids=["gpt_neox"])
def test_plain_text_on_a_base_without_padding_is_scored_from_outside(base, corpus, capsys):
    """The rows' tokenizer has padding, which the model's has not: the ids mean the same all the same."""
    words = ["--from_pretrained", str(base), "--corpus", str(corpus), "--block_size", "32", *QUIET, *LORA, "--output_dir", "run"]
    assert run_command(finetune.main, words) == 0
    with pytest.raises(SystemExit) as ended:
        run_command(finetune.main, [*words, "--eval_only"])
    assert ended.value.code == 0
    data = json.loads(Path("run/run.json").read_text())["data"]["path"]
    loss = figures("run")["loss"]
    assert run_command(evaluation.main, ["--model", "run/final", "--dataset_dir", data, "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("base", [("gpt_neox", False)], indirect=True, ids=["gpt_neox"])
def test_an_adapter_of_a_table_is_no_table(base, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules=["embed_in", "lm_head", "dense"], init_lora_weights=False, task_type="CAUSAL_LM")
    joined = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    joined.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    merged = merge_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", base, "--model")
    assert (logits_of(merged) - logits_of(joined)).abs().max() < 1e-5
    tables = ["base_model.model.transformer.wte.weight", "base_model.model.embed_out.base_layer.weight"]
    assert all(map(_TABLE.search, tables))


def test_a_table_that_grew_comes_with_its_adapter(tmp_path):
    """As others save them: tokens were added, and the embeddings trained along."""
    from peft import LoraConfig, get_peft_model

    base = published(tmp_path / "base", "gpt2", True)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 2)
    joined = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM"))
    joined.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    merged = merge_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", base, "--model")
    assert (logits_of(merged) - logits_of(joined)).abs().max() < 1e-5


def test_what_is_told_of_the_size_is_the_base_s(tmp_path):
    base = GPT2Config(vocab_size=100, n_layer=1, n_embd=32, n_head=2)
    training = FinetuneTrainingArguments(output_dir=str(tmp_path), report_to=["none"])
    sizes = [
        shape_of(FinetuneConfig(training=training, lora=LoraArguments(lora=lora), base=base), 101).vocab_size
        for lora in (True, False)
    ]
    assert sizes == [100, 128]
