"""Model folders that are taken, and those that are refused in one line: llmforge.pretrained.loading and what it stands on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from safetensors.torch import load_file, save_file

from llmforge import cli
from llmforge.errors import CheckpointError
from llmforge.pretrained.adapters import BASE_RECORD, base_record
from llmforge.pretrained.loading import load_pretrained_model


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "final"
    tiny_model("gpt2-10m", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A whole model, to be spoiled."""
    return Path(shutil.copytree(whole, tmp_path / "final"))


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, words: str, **given) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_pretrained_model(str(folder), **given)
    assert "\n" not in str(caught.value)
    assert "--model" in str(caught.value)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[0, 9, 33, 70]])).logits


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "layout", ["safetensors", "without prefix", "pytorch_model.bin", "half precision", "run folder", "old masks"]
)
def test_layouts_that_are_taken(layout, folder, whole):
    weights = folder / "model.safetensors"
    state = load_file(weights)
    if layout == "without prefix":  # as OpenAI's own on the hub
        save_file({name.removeprefix("transformer."): value for name, value in state.items()}, weights, metadata={"format": "pt"})
    elif layout == "pytorch_model.bin":
        torch.save(state, folder / "pytorch_model.bin")
        weights.unlink()
    elif layout == "old masks":  # as transformers wrote them until 4.30
        for block in range(2):
            state[f"transformer.h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
            state[f"transformer.h.{block}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        save_file(state, weights, metadata={"format": "pt"})
    elif layout == "half precision":
        save_file({name: value.bfloat16() for name, value in state.items()}, weights, metadata={"format": "pt"})
        edit(folder / "config.json", dtype="bfloat16")
    found = load_pretrained_model(str(folder.parent if layout == "run folder" else folder))
    assert found.model.dtype == torch.float32
    assert found.path == folder
    assert found.spare_rows == found.model.config.vocab_size - len(found.tokenizer) > 0
    tolerance = 0.1 if layout == "half precision" else 0
    assert torch.allclose(logits(found.model), logits(load_pretrained_model(str(whole)).model), atol=tolerance)


def test_code_in_a_folder_is_never_run(folder):
    for name in ("config.json", "tokenizer_config.json"):
        before = (folder / name).read_text()
        edit(folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
        (folder / "evil.py").write_text("raise SystemExit('run')")
        refused(folder, f"{name} has an auto_map")
        (folder / name).write_text(before)


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "x": Payload(tmp_path / "ran")}, folder / "pytorch_model.bin")
    refused(folder, "a pickle that needs more than tensors.*safetensors")
    assert not (tmp_path / "ran").exists()


def spoil_tensor(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "transformer.h.0.ln_1.weight"
SPOILED = {
    "no tokenizer": (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "has no tokenizer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no model: there is no config.json"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "another architecture": (lambda f: edit(f / "config.json", model_type="llama"), "of another architecture: llama"),
    "another head": (
        lambda f: edit(f / "config.json", architectures=["GPT2ForSequenceClassification"]),
        "of another architecture: GPT2ForSequenceClassification",
    ),
    "quantized": (lambda f: edit(f / "config.json", quantization_config={"bits": 4}), "is quantized"),
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 9_000), "cannot be loaded"),
    "a tensor missing": (lambda f: spoil_tensor(f, lambda s: s.pop(NORM)), f"lacks {NORM}"),
    "a tensor too many": (lambda f: spoil_tensor(f, lambda s: s.update(extra=torch.zeros(3))), "does not know extra"),
    "another shape": (lambda f: spoil_tensor(f, lambda s: s.update({NORM: torch.ones(7)})), f"another shape of {NORM}"),
    "not finite": (lambda f: spoil_tensor(f, lambda s: s[NORM].fill_(float("nan"))), f"{NORM} is not finite"),
    "end of text": (lambda f: edit(f / "config.json", eos_token_id=7), "end of text is id 7 for the model and 0"),
}


@pytest.mark.parametrize("what", list(SPOILED))
def test_what_cannot_be_used_is_refused(what, folder):
    spoil, words = SPOILED[what]
    spoil(folder)
    refused(folder, words)


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.tokenization import train_tokenizer

    words = " ".join(f"{left}{right}{left}" for left in "abcdefghijklmn" for right in "opqrstuvwxyz")
    train_tokenizer([words], TokenizerArguments(vocab_size=600, min_frequency=1)).save(folder)
    refused(folder, "not of one model")


def test_a_tokenizer_of_the_same_size_that_is_not_the_run_s_is_refused(folder, tmp_path):
    """Nothing else tells it: every id fits, and the end of text is the same."""
    kept = tmp_path / "tokenizer"
    kept.mkdir()
    shutil.copy(folder / "tokenizer.json", kept)
    assert load_pretrained_model(str(folder)).path == folder
    written = json.loads((folder / "tokenizer.json").read_text())
    entries = written["model"]["vocab"]
    first, second = [name for name, number in entries.items() if number in (300, 301)]
    entries[first], entries[second] = entries[second], entries[first]
    (folder / "tokenizer.json").write_text(json.dumps(written))
    refused(folder, "its tokenizer is not the run's own")
    (kept / "tokenizer.json").unlink()  # as where only the model was copied
    assert load_pretrained_model(str(folder)).path == folder


def test_a_tokenizer_far_smaller_than_the_model_is_refused(folder, tokenizer):
    """Every id fits, and means something else."""
    model = load_pretrained_model(str(folder)).model
    model.resize_token_embeddings(len(tokenizer) + 1025, mean_resizing=False)
    model.save_pretrained(folder)
    refused(folder, "not of one model")


def test_a_damaged_file_of_a_committed_checkpoint_is_named(folder):
    from llmforge.checkpoints.commit import commit, stage

    staging = stage(folder.parent, 5)
    shutil.copytree(folder, staging, dirs_exist_ok=True)
    checkpoint = commit(staging, "abc")
    assert load_pretrained_model(str(checkpoint)).path == checkpoint
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    refused(checkpoint, "is damaged: model.safetensors")


def test_a_hub_id_is_fetched_without_what_could_be_run(folder, tmp_path, monkeypatch):
    """The hub itself is stood in for by a copy of what is asked of it."""
    for name in ("pytorch_model.bin", "modeling.py", "flax_model.msgpack"):
        (folder / name).write_bytes(b"\x80\x04")
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        for path in folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                (tmp_path / "snapshot").mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / "snapshot")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = load_pretrained_model("gpt2")
    assert (asked, found.path) == (["gpt2"], tmp_path / "snapshot")
    assert {path.suffix for path in found.path.iterdir()} <= {".json", ".safetensors"}
    assert torch.equal(logits(found.model), logits(load_pretrained_model(str(folder)).model))


def test_names_that_lead_nowhere(tmp_path):
    refused(tmp_path / "gone", "no such folder")
    (tmp_path / "runs").mkdir()
    refused(Path("runs/nothing"), "no such folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    refused(Path("no-such/model"), "neither a folder nor a hub id that can be reached")


# --- adapters -------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder):
    """A LoRA adapter of `folder`, beside it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True, task_type="CAUSAL_LM")
    get_peft_model(load_pretrained_model(str(folder)).model, settings).save_pretrained(folder.parent / "adapter")
    path = folder.parent / "adapter"
    edit(path / "adapter_config.json", base_model_name_or_path="../final")
    return path


def test_an_adapter_is_merged_into_the_base_that_it_names(adapter, folder):
    found = load_pretrained_model(str(adapter))
    assert (found.path, found.base.resolve()) == (adapter, folder.resolve())
    assert not torch.allclose(logits(found.model), logits(load_pretrained_model(str(folder)).model), atol=1e-2)
    folder.rename(folder.with_name("moved"))
    refused(adapter, r"is an adapter of \.\./final.*Give --base_model")
    again = load_pretrained_model(str(adapter), base=str(folder.with_name("moved")))
    assert torch.equal(logits(again.model), logits(found.model))


def test_an_adapter_of_another_base_is_refused(adapter, folder, tokenizer):
    (adapter / BASE_RECORD).write_text(base_record(folder))
    assert load_pretrained_model(str(adapter)).base is not None
    other = folder.with_name("other")
    tiny_model("gpt2-10m", tokenizer, seed=1).save_pretrained(other)
    tokenizer.save_pretrained(other)
    refused(adapter, "trained on other weights than those in", base=str(other))
    (adapter / "base.json").unlink()
    tiny_model("neox-10m", tokenizer).save_pretrained(other)
    refused(adapter, "--base_model", base=str(other))
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    build_model(ModelArguments(preset="gpt2-10m", n_layer=2, n_embd=64, n_head=2), tokenizer).save_pretrained(other)
    (other / "model.safetensors").exists()
    refused(adapter, "another base", base=str(other))
    refused(folder, "is no adapter, and a base is given", base=str(other))


def test_an_adapter_s_pickle_and_kind(adapter):
    edit(adapter / "adapter_config.json", peft_type="PREFIX_TUNING")
    refused(adapter, "is a PREFIX_TUNING adapter")
    edit(adapter / "adapter_config.json", peft_type="LORA")
    torch.save({"x": Payload(adapter / "ran")}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, "has no adapter_model.safetensors")
    assert not (adapter / "ran").exists()


def test_the_command_tells_it_in_one_line_with_exit_code_4(folder, capsys):
    (folder / "tokenizer.json").unlink()
    assert cli.main(["export", "--model", str(folder), "--output", "x.gguf"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --model")
    assert err.count("\n") == 1
    assert not Path("x.gguf").exists()
