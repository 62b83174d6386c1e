"""Exports, opened by the programs they are for: llmforge.export and the rooms beside it."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, tiny_model
from reliability.harness import KillAt, forked

from llmforge import cli, export
from llmforge.configs.export import ExportArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.errors import CheckFailed, ConfigError, DataError, StorageError
from llmforge.export import export_model
from llmforge.exporting import check, gguf_file, server
from llmforge.exporting.card import no_data_card, origin_of
from llmforge.exporting.lines import verify_lines
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.tokenization import load_pretrained, train_tokenizer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the extra gguf is not installed")

#: Entries, and tokens of the user's own.
VOCABULARIES = {
    "8k": (8192, []),
    "32k": (32768, []),
    "own tokens": (1000, ["<PR_TITLE>", "<PR_BODY>", "[INST]", "日本", "<tab>\t"]),
}


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """Trained on this project's pages and on made-up words, but not on the lines that exports are checked on."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    source = random.Random(0)
    syllables = [a + b for a in ("", *"bdfgklmnprst", "ß", "п", "漢") for b in (*"aeiou", "ä", "и", "字")]
    words = [" ".join("".join(source.choices(syllables, k=4)) for _ in range(14_000))]
    made = {}
    for name, (size, own) in VOCABULARIES.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        train_tokenizer(texts + words, TokenizerArguments(vocab_size=size, special_tokens=own, min_frequency=1)).save(folder)
        made[name] = load_pretrained(folder)
        assert len(made[name]) == size
    return made


@pytest.fixture
def saved(tmp_path):
    """Saves a tiny model with its tokenizer, and returns the folder."""

    def save(preset: str, tokenizer, folder: str = "model", **changes) -> Path:
        model = tiny_model(preset, tokenizer, **changes)
        with torch.no_grad():  # norms and biases that are as they were made would hide what is done to them
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
        return tmp_path / folder

    return save


@pytest.fixture(scope="module")
def model_folder(tokenizer, tmp_path_factory):
    """One tiny GPT-2 for what does not hang on the architecture."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("gpt2-10m", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def few_lines(tmp_path):
    """A short text to check with, where the check itself is not what is tested."""
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(verify_lines()[:60]), encoding="utf-8")
    return str(path)


def exported(model: Path, output: Path, **changes):
    return export_model(ExportArguments(model=str(model), output=str(output), **changes))


# --- what was written is the model ----------------------------------------------------------------


def opened(preset: str, vocabulary: str, dtype: str, saved, tokenizers, tmp_path):
    """An export that llama.cpp has compared with the model, by the lines that llmforge ships."""
    result = exported(saved(preset, tokenizers[vocabulary]), tmp_path / "model.gguf", dtype=dtype)
    assert result.verified
    assert result.check.lines >= 2_600
    assert result.check.prefixes >= 200
    assert result.check.error <= check.BOUNDS[dtype]
    assert result.check.same_first > (0.9 if dtype in ("f32", "f16") else 0.7)
    return result


#: Every architecture with every vocabulary, and every dtype with both.
CASES = [
    ("gpt2-10m", "8k", "f32"),
    ("gpt2-10m", "32k", "f16"),
    ("gpt2-10m", "own tokens", "q8_0"),
    ("neox-10m", "8k", "q8_0"),
    ("neox-10m", "32k", "bf16"),
    ("neox-10m", "own tokens", "f32"),
]


@pytest.mark.parametrize(("preset", "vocabulary", "dtype"), CASES)
def test_llama_cpp_finds_the_same_ids_and_numbers(preset, vocabulary, dtype, saved, tokenizers, tmp_path):
    opened(preset, vocabulary, dtype, saved, tokenizers, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("vocabulary", list(VOCABULARIES))
def test_llama_cpp_finds_the_same_in_every_dtype(preset, vocabulary, dtype, saved, tokenizers, tmp_path):
    opened(preset, vocabulary, dtype, saved, tokenizers, tmp_path)


@pytest.mark.parametrize(("preset", "tied"), [("gpt2-10m", False), ("neox-10m", True)])
def test_heads_that_are_not_the_architectures_usual_one(preset, tied, tokenizer, few_lines, tmp_path):
    """llama.cpp takes GPT-2's embeddings where there is no head, and opens no GPT-NeoX without one."""
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    shape = TINY[preset] | {"tie_word_embeddings": tied}
    build_model(ModelArguments(preset=preset, initializer_range=0.2, **shape), tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for dtype in ("f32", "q8_0"):
        assert exported(tmp_path / "model", tmp_path / f"{dtype}.gguf", dtype=dtype, verify_corpus=few_lines).verified


def test_the_lines_hold_what_tokenizers_get_wrong(tokenizers):
    lines = check.lines_to_verify(tokenizers["own tokens"], None)
    text = "\n".join(lines)
    assert len(lines) == len(set(lines)) >= 2_000
    for part in (
        "👨‍👩‍👧‍👦",
        "油冷",
        "カタカナ",
        "기름",
        "\t",
        "\r\n",
        "12345",
        "<|endoftext|>",
        "<|pad|>",
        "<PR_TITLE>",
        "[INST]",
        "e\u0301",
    ):
        assert sum(part in line for line in lines) >= 1, part
    assert "\u00a0" in text
    assert sum("<PR_TITLE>" in line for line in lines) > 40


@pytest.mark.parametrize("shape", [{"attention_bias": False}, {"use_parallel_residual": False, "rotary_pct": 1.0}])
def test_shapes_of_neox_that_are_not_the_default(shape, tokenizer, few_lines, tmp_path):
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    small = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 3, "rotary_emb_base": 500.0}
    bias = shape.pop("attention_bias", True)
    model = build_model(ModelArguments(preset="neox-10m", initializer_range=0.2, **small | shape), tokenizer)
    if not bias:
        config = type(model.config).from_dict(model.config.to_dict() | {"attention_bias": False})
        model = type(model)(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    result = exported(tmp_path / "model", tmp_path / "model.gguf", dtype="q8_0", verify_corpus=few_lines)
    assert result.verified
    assert result.kept_f16 > 0, "48 is no multiple of 32"


def test_a_transformers_folder_is_the_same_model_without_spare_rows(preset, saved, tokenizer, few_lines, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    folder = saved(preset, tokenizer)
    for dtype, wanted in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        result = exported(folder, tmp_path / "out", format="safetensors", dtype=dtype, verify_corpus=few_lines)
        assert result.verified
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert model.dtype == wanted
        assert model.config.vocab_size == len(tokenizer) < AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
        assert result.parameters == model.num_parameters()
    assert (tmp_path / "out" / "README.md").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer.get_vocab()
    writer = pipeline("text-generation", model=str(tmp_path / "out"))
    assert writer("package", max_new_tokens=3)[0]["generated_text"].startswith("package")


# --- what is not the model is not kept ------------------------------------------------------------


def broken(name: str, how, monkeypatch) -> None:
    """One tensor is written otherwise."""
    right = gguf_file._maker

    def wrong(own, tensor, config, vocabulary):
        values = right(own, tensor, config, vocabulary)
        return (lambda: how(values())) if own == name else values

    monkeypatch.setattr(gguf_file, "_maker", wrong)


def ungrouped(values: np.ndarray) -> np.ndarray:
    return values.reshape(3, 2, 16, 32).swapaxes(0, 1).reshape(values.shape)


WRONG = [
    ("gpt2-10m", "q8_0", "transformer.h.0.attn.c_proj.weight", np.transpose),
    ("gpt2-10m", "f32", "transformer.h.1.attn.c_attn.bias", np.zeros_like),
    ("gpt2-10m", "bf16", "transformer.wpe.weight", lambda values: np.roll(values, 1, axis=0)),
    # As it is in the checkpoint: head by head.
    ("neox-10m", "q8_0", "gpt_neox.layers.1.attention.query_key_value.weight", ungrouped),
    ("neox-10m", "f16", "gpt_neox.layers.0.attention.dense.weight", np.transpose),
]


@pytest.mark.parametrize(("preset", "dtype", "name", "how"), WRONG, ids=[case[2] for case in WRONG])
def test_one_wrong_tensor_is_caught_and_nothing_is_left(
    preset, dtype, name, how, saved, tokenizer, few_lines, tmp_path, monkeypatch
):
    broken(name, how, monkeypatch)
    folder = saved(preset, tokenizer)
    with pytest.raises(CheckFailed, match=r"llama.cpp computes other numbers.*It was not kept"):
        exported(folder, tmp_path / "out" / "model.gguf", dtype=dtype, verify_corpus=few_lines)
    assert list((tmp_path / "out").iterdir()) == []


def test_one_wrong_tensor_is_caught_in_a_model_that_was_hardly_trained(tokenizer, few_lines, tmp_path, monkeypatch):
    """Its log-probabilities are nearly all the same: the bound is a share of how much they vary."""
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    model = build_model(ModelArguments(preset="gpt2-10m", n_layer=2, n_embd=32, n_head=2), tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert exported(tmp_path / "model", tmp_path / "model.gguf", dtype="f32", verify_corpus=few_lines).verified
    broken("transformer.h.0.mlp.c_proj.weight", lambda values: values[:, ::-1], monkeypatch)
    with pytest.raises(CheckFailed, match="other numbers"):
        exported(tmp_path / "model", tmp_path / "model.gguf", dtype="f32", verify_corpus=few_lines)


def test_a_wrong_folder_is_caught_by_transformers(model_folder, few_lines, tmp_path, monkeypatch):
    right = export.write_folder

    def wrong(found, folder, dtype, template):
        from safetensors.torch import load_file, save_file

        right(found, folder, dtype, template)
        state = load_file(folder / "model.safetensors")
        state["transformer.h.0.attn.c_proj.weight"] = state["transformer.h.0.attn.c_proj.weight"].T.contiguous()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(export, "write_folder", wrong)
    with pytest.raises(CheckFailed, match="transformers computes other numbers"):
        exported(model_folder, tmp_path / "out", format="safetensors", verify_corpus=few_lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["merge", "kind"])
def test_a_wrong_tokenizer_is_caught_and_the_line_is_named(what, model_folder, tmp_path, monkeypatch):
    import gguf

    if what == "merge":  # the first one is missing
        right = gguf.GGUFWriter.add_token_merges
        monkeypatch.setattr(gguf.GGUFWriter, "add_token_merges", lambda self, merges: right(self, merges[1:]))
    else:  # the user's own token is one that is matched where special ones are only
        right = gguf.GGUFWriter.add_token_types
        monkeypatch.setattr(
            gguf.GGUFWriter,
            "add_token_types",
            lambda self, types: right(self, [3 if kind == gguf.TokenType.USER_DEFINED else kind for kind in types]),
        )
    with pytest.raises(CheckFailed, match=r"llama.cpp cuts line \d+, .* into other tokens"):
        exported(model_folder, tmp_path / "out" / "model.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_llama_cpp_cannot_open_is_not_kept(model_folder, few_lines, tmp_path, monkeypatch, capsys):
    """And the old one stays, to the byte; the command says so with exit code 7."""
    output = tmp_path / "model.gguf"
    exported(model_folder, output, verify_corpus=few_lines)
    before = output.read_bytes()
    broken("transformer.h.0.attn.c_attn.weight", lambda values: values, monkeypatch)
    right = gguf_file._tensors
    monkeypatch.setattr(gguf_file, "_tensors", lambda *given: right(*given)[:-1])
    capsys.readouterr()
    assert cli.main(["export", "--model", str(model_folder), "--output", str(output), "--verify_corpus", few_lines]) == 7
    assert "error: llama.cpp cannot open" in capsys.readouterr().err
    assert output.read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, 0.5, -1])
def test_a_truncated_file_is_found_by_verify_only(size, model_folder, few_lines, tmp_path):
    output = tmp_path / "model.gguf"
    exported(model_folder, output, verify=False)
    whole = output.read_bytes()
    kept = len(whole) // 2 if size == 0.5 else size if size >= 0 else len(whole) + size
    output.write_bytes(whole[:kept])
    with pytest.raises(CheckFailed, match="cannot open"):
        exported(model_folder, output, verify_only=True, verify_corpus=few_lines)
    assert output.stat().st_size == kept, "what is only checked stays"


# --- faults while exporting (reliability.md, phase X) ----------------------------------------------


def test_killed_at_any_touch_of_the_folder_the_old_file_stays_or_the_new_one_is_there(
    model_folder, tokenizer, few_lines, tmp_path
):
    """And what the killed process left is swept by the next export."""
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "model.gguf"
    exported(model_folder, output, dtype="f32", verify=False)
    old = output.read_bytes()
    exported(model_folder, output, dtype="q8_0", verify=False)
    new = output.read_bytes()
    number, code, seen = 0, -signal.SIGKILL, set()
    while code:
        number += 1
        output.write_bytes(old)

        def work(number=number) -> None:
            sys.addaudithook(KillAt(folder, number))
            exported(model_folder, output, dtype="q8_0", verify=False)

        code = forked(work)
        assert code in (0, -signal.SIGKILL)
        seen.add(output.read_bytes() == new)
        assert output.read_bytes() in (old, new)
    assert seen == {True, False}
    assert number > 4
    for left in folder.glob(".partial-*"):  # younger ones may be another process's
        os.utime(left, (0, 0))
    exported(model_folder, output, dtype="q8_0", verify=False)
    assert sorted(path.name for path in folder.iterdir()) == ["model.Modelfile", "model.gguf", "model.md"]


@pytest.mark.slow
def test_a_folder_that_is_exported_is_the_old_one_or_the_new_one_or_none_whenever_it_is_killed(model_folder, tmp_path):
    folder = tmp_path / "out"
    output = folder / "model"
    folder.mkdir()

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in output.iterdir()} if output.exists() else {}

    def export_as(dtype: str) -> None:
        exported(model_folder, output, format="safetensors", dtype=dtype, verify=False)

    export_as("f16")
    new = content()
    seen = set()
    for number in range(1, 60):
        shutil.rmtree(output, ignore_errors=True)
        export_as("f32")
        old = content()

        def work(number=number) -> None:
            sys.addaudithook(KillAt(folder, number))
            export_as("f16")

        code = forked(work)
        left = content()
        assert {name for name in left if left[name] != old.get(name)} == set() or left.keys() == new.keys()
        assert left.get("model.safetensors") in (None, old["model.safetensors"], new["model.safetensors"])
        seen.add("new" if left.get("model.safetensors") == new["model.safetensors"] else "old" if left else "none")
        if code == 0:
            break
    assert code == 0
    assert {"old", "new"} <= seen


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_full_disk_leaves_the_old_file_or_none(form, old, model_folder, few_lines, tmp_path):
    output = tmp_path / "out" / "model.gguf" if form == "gguf" else tmp_path / "out" / "model"
    output.parent.mkdir()
    if old:
        exported(model_folder, output, format=form, dtype="bf16", verify=False)

    def content():
        return {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()}

    before = content()

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match="Free some space"):
            exported(model_folder, output, format=form, dtype="f32", verify=False)

    assert forked(work) == 0
    assert content() == before


def test_a_card_that_cannot_be_written_leaves_all_as_it_was(model_folder, tmp_path, monkeypatch):
    output = tmp_path / "out" / "model.gguf"
    exported(model_folder, output, dtype="f32", verify=False)
    before = {path: path.read_bytes() for path in output.parent.iterdir()}

    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "modelfile", full)
    with pytest.raises(StorageError, match="Free some space"):
        exported(model_folder, output, dtype="bf16", verify=False)
    assert {path: path.read_bytes() for path in output.parent.iterdir()} == before


# --- what is beside it, and what is told -----------------------------------------------------------


def test_json_card_and_modelfile(model_folder, few_lines, tmp_path, capsys):
    import gguf

    (model_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# x\n")
    command = ["export", "--model", str(model_folder), "--output", "model.gguf", "--name", "gopher", "--verify_corpus", few_lines]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is True
    assert told["check"]["reader"] == "llama.cpp"
    assert (told["bytes"], told["dtype"]) == (Path("model.gguf").stat().st_size, "f16")
    card = Path("model.md").read_text()
    assert "# gopher" in card
    assert "license: apache-2.0" in card
    assert f"token ids of {told['check']['lines']} lines are equal" in card
    assert "no statement of fact" in card
    assert Path("model.Modelfile").read_text().splitlines()[0] == "FROM ./model.gguf"
    fields = {name: field.contents() for name, field in gguf.GGUFReader("model.gguf").fields.items()}
    assert (fields["general.name"], fields["general.license"]) == ("gopher", "apache-2.0")
    assert fields["gpt2.context_length"] == 1024
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert cli.main([*told["verify_command"].split()[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True


def test_results_and_data_card_come_from_the_run(tokenizer, tmp_path):
    run, data = tmp_path / "runs" / "gopher-001", tmp_path / "data"
    tiny_model("gpt2-10m", tokenizer).save_pretrained(run / "final")
    tokenizer.save_pretrained(run / "final")
    data.mkdir()
    (data / "data_card.md").write_text("# Data card\n\n- `src` (code): 60 files\n")
    split = {"documents": 48, "bytes": 9000, "tokens": 3000}
    test = {"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.25, "accuracy": 0.5}
    record = {"name": "gopher-001", "data": {"path": str(data), "splits": {"train": split}}, "final": {"test": test}}
    (run / "run.json").write_text(json.dumps(record))
    exported(run, tmp_path / "g.gguf", verify=False)
    card = (tmp_path / "g.md").read_text()
    for part in (
        "# gopher-001",
        "48 documents",
        "| test | 2.0000 | 7.3890 | 1.2500 | 0.5000 |",
        "`src` (code): 60 files",
        "Not verified",
    ):
        assert part in card
    import gguf

    tuned = {
        "config": {"finetune": {"from_pretrained": "runs/base-003/final"}},
        "data": {"path": "gone", "splits": {"train": split}},
    }
    description = gguf.GGUFReader(tmp_path / "g.gguf").fields["general.description"].contents()
    (run / "run.json").write_text(json.dumps(tuned))
    card = origin_of(load_pretrained_model(str(run)))
    assert card.training.startswith("Fine-tuned with llmforge from `base-003` on 48 rows of text: 9,000 bytes")
    assert "the prepared data are no longer there" in no_data_card(card)
    tuned["config"]["finetune"]["from_scratch"] = True
    (run / "run.json").write_text(json.dumps(tuned))
    assert origin_of(load_pretrained_model(str(run))).training.startswith("Trained with llmforge on")
    assert "3,000 tokens" in description
    assert "perplexity 7.389" in description


def test_without_llama_cpp_it_is_written_and_marked(model_folder, monkeypatch, capsys):
    for module in (export, server):
        monkeypatch.setattr(module, "has_reader", lambda: False)
    assert cli.main(["export", "--model", str(model_folder), "--output", "model.gguf", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["verified"] is False
    assert "--verify_only" in told["verify_command"]
    assert "pip install 'llmforge[gguf]'" in err
    assert "**Not verified.**" in Path("model.md").read_text()
    assert cli.main(told["verify_command"].split()[1:]) == 2
    assert "llama.cpp is not installed" in capsys.readouterr().err


def test_a_lora_adapter_is_merged_first(preset, saved, tokenizer, few_lines, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = saved(preset, tokenizer)
    torch.manual_seed(0)
    targets = ["c_attn"] if preset == "gpt2-10m" else ["query_key_value"]
    joined = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    joined.save_pretrained(tmp_path / "adapter")
    result = exported(tmp_path / "adapter", tmp_path / "out", format="safetensors", verify_corpus=few_lines)
    assert result.verified
    ids = torch.tensor([[0, 5, 9, 40]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    with torch.no_grad():
        assert torch.allclose(merged, joined.eval()(ids).logits[..., : len(tokenizer)], atol=1e-5)
    assert exported(tmp_path / "adapter", tmp_path / "a.gguf", verify_corpus=few_lines).verified


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": None}, "--output is not given"),
        ({"model": None}, "--model is not given"),
        ({"output": "notes.txt"}, "is no GGUF, and would be replaced"),
        ({"output": "folder"}, "is a folder"),
        ({"output": "folder", "format": "safetensors"}, "holds something that is no export"),
        ({"output": "gone.gguf", "verify_only": True}, "is not there"),
    ],
)
def test_places_that_are_refused(changes, words, model_folder):
    Path("notes.txt").write_text("mine")
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=words):
        export_model(ExportArguments(**{"model": str(model_folder), "output": "model.gguf"} | changes))
    assert Path("notes.txt").read_text() == Path("folder/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("where", ["a project", "the model by its run", "another run's", "what holds the model"])
def test_no_folder_of_the_user_s_is_replaced(where, model_folder):
    shutil.copytree(model_folder, "run/final")
    Path("run/run.json").write_text("{}")
    model, output = "run", Path("run/final")
    if where == "a project":
        output = Path("project")
        output.mkdir()
        for name in ("config.json", "main.py"):
            (output / name).write_text("{}")
    elif where == "another run's":
        model = str(model_folder)
    elif where == "what holds the model":
        shutil.copytree(model_folder, "place/tokenizer.json")  # a name that an export has
        model, output = "place/tokenizer.json", Path("place")
    before = sorted(path.stat().st_mtime_ns for path in output.rglob("*"))
    with pytest.raises(ConfigError, match=r"is no export|belongs to a run|is the model itself"):
        export_model(ExportArguments(model=model, output=str(output), format="safetensors", dtype="bf16"))
    assert sorted(path.stat().st_mtime_ns for path in output.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "safetensors", "dtype": "q8_0"}, "--dtype q8_0 is llama.cpp's own"),
        ({"verify": False, "verify_only": True}, "does nothing"),
        ({"verify": False, "verify_corpus": "x"}, "no effect"),
    ],
)
def test_settings_that_do_not_go_together(changes, words):
    with pytest.raises(ConfigError, match=words):
        ExportArguments(**changes)


def test_a_corpus_that_cannot_be_read(model_folder):
    with pytest.raises(DataError, match="--verify_corpus gone"):
        exported(model_folder, Path("model.gguf"), verify_corpus="gone.txt")


def test_what_llama_cpp_does_not_compute_is_refused(tokenizer, tmp_path):
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    model = build_model(ModelArguments(preset="gpt2-10m", n_layer=1, n_embd=32, n_head=2, activation_function="relu"), tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"activation_function relu.*--format safetensors"):
        exported(tmp_path / "model", tmp_path / "model.gguf")


def test_weights_beyond_f16_are_refused(tokenizer, tmp_path):
    model = tiny_model("gpt2-10m", tokenizer)
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="beyond what f16 holds"):
        exported(tmp_path / "model", tmp_path / "model.gguf", dtype="f16")
    assert not (tmp_path / "model.gguf").exists()
