"""llmforge evaluate: figures against counts written here, from logits alone, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from helpers import ROOT, tiny_model
from rich.cells import cell_len
from test_pretrain import command as pretrain_command

from llmforge import cli, evaluation
from llmforge.configs.data import DataArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import load_prepared
from llmforge.errors import ConfigError, DataError
from llmforge.evaluation import evaluate_model
from llmforge.scoring import on_text
from llmforge.scoring.figures import figures_of, zstd_size
from llmforge.scoring.text import text_of_dataset
from llmforge.tokenization import train_tokenizer

BLOCK = 32
#: Several contexts long, just a context, one of one token, some in other scripts, one with the user's own token.
TEXTS = {
    "long": "func open(path string) error { return read(path) }\n" * 12,
    "one": "a",
    "scripts": "für Ωmega 漢字 👍🏽 <|endoftext|> <PR_TITLE> \t\r x",
    "short": "package data",
    "more": "for range data { if err != nil { return err } }\nfunc write(int) error",
}


@pytest.fixture
def texts(tmp_path) -> list[Path]:
    """Ragged documents in two folders, which are two sources."""
    for number, (name, text) in enumerate(TEXTS.items()):
        path = tmp_path / f"source{number % 2}" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return [tmp_path / "source0", tmp_path / "source1"]


def documents_of(folder: Path) -> list[str]:
    return [path.read_bytes().decode() for path in sorted(folder.iterdir())]


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Saves a tiny model with its tokenizer, and returns the folder and the model."""

    def save(preset: str, folder: str = "model"):
        model = tiny_model(preset, tokenizer)
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
        return tmp_path / folder, model

    return save


def counted(model, tokenizer, texts: list[str], block: int = BLOCK, stride: int | None = None) -> dict[str, float]:
    """Figures from the logits of documents fed one by one, a window at a time; none of the library's own code."""
    model.eval()
    nll = tokens = correct = among5 = size = byte_nll = 0.0
    for text in texts:
        inner = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [tokenizer.bos_token_id, *inner, tokenizer.eos_token_id]
        done = 0
        while done < len(ids) - 1:
            start = done - (block - stride) if stride and done else done
            end = min(start + block, len(ids) - 1)
            with torch.no_grad():
                logits = type(model).forward(model, torch.tensor([ids[start:end]])).logits[0].double()
            for place in range(done, end):
                row, goal = logits[place - start], ids[place + 1]
                loss = float(torch.logsumexp(row, -1) - row[goal])
                bytes_of = 0 if goal == tokenizer.eos_token_id else len(tokenizer.convert_ids_to_tokens(goal))
                nll, tokens, size = nll + loss, tokens + 1, size + bytes_of
                byte_nll += loss if bytes_of else 0
                correct += int(row.argmax()) == goal
                among5 += goal in row.topk(5).indices.tolist()
            done = end
    return {
        "loss": nll / tokens,
        "perplexity": math.exp(nll / tokens),
        "bits_per_byte": byte_nll / math.log(2) / size,
        "accuracy": correct / tokens,
        "top5_accuracy": among5 / tokens,
        "tokens": tokens,
        "bytes": size,
    }


def evaluated(folder: Path, corpus: list[Path], **changes):
    settings = {"block_size": BLOCK, "format": "text", "clean": False, "samples": 0} | changes
    return evaluate_model(EvaluationArguments(model=str(folder), corpus=[str(path) for path in corpus], **settings))


def same(figures, wanted: dict[str, float]) -> None:
    for name, value in wanted.items():
        assert getattr(figures, name) == pytest.approx(value, rel=1e-5), name


# --- the figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_figures_are_those_counted_from_logits(preset, batch, saved, tokenizer, texts):
    folder, model = saved(preset)
    found = evaluated(folder, texts, per_device_eval_batch_size=batch)
    parts = [documents_of(path) for path in texts]
    same(found.total, counted(model, tokenizer, parts[0] + parts[1]))
    assert found.total.bytes == sum(len(text.encode()) for part in parts for text in part)
    assert found.total.documents == len(TEXTS)
    assert list(found.sources) == [str(path) for path in texts]
    for path, part in zip(texts, parts, strict=True):
        same(found.sources[str(path)], counted(model, tokenizer, part))


@pytest.mark.parametrize("stride", [1, 7, BLOCK])
def test_sliding_windows_are_those_counted_from_logits(preset, stride, saved, tokenizer, texts):
    folder, model = saved(preset)
    found = evaluated(folder, texts, stride=stride, per_device_eval_batch_size=5)
    every = [text for path in texts for text in documents_of(path)]
    same(found.total, counted(model, tokenizer, every, stride=stride))
    assert found.total.tokens == evaluated(folder, texts).total.tokens


def test_more_context_predicts_better(tmp_path, saved, tokenizer):
    """Of a model that has learnt to: one that copies is enough, so the figures of two strides just differ here."""
    folder, _ = saved("gpt2-10m")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text(TEXTS["long"])
    whole, slid = (evaluated(folder, [tmp_path / "a"], stride=stride).total for stride in (None, 3))
    assert whole.tokens == slid.tokens
    assert whole.loss != pytest.approx(slid.loss, rel=1e-4)


@pytest.mark.slow
def test_two_processes_find_the_same_to_the_last_digit(saved, tokenizer, texts, tmp_path):
    """Both architectures in one launch; rows that no batch divides, and documents that find their source again."""
    alone = {}
    for preset in ("gpt2-10m", "neox-10m"):
        folder, _ = saved(preset, preset)
        alone[preset] = evaluated(folder, texts, per_device_eval_batch_size=2)
    script = tmp_path / "both.py"
    flags = ["--block_size", str(BLOCK), "--format", "text", "--no-clean", "--per_device_eval_batch_size", "2"]
    script.write_text(
        "import sys\nfrom llmforge import evaluation\nfrom llmforge.runtime.commands import run_command\n"
        "for preset in ('gpt2-10m', 'neox-10m'):\n"
        f"    command = ['--model', preset, '--corpus', 'source0', 'source1', '--output', preset + '.json', *{flags}]\n"
        "    assert run_command(evaluation.main, command) == 0\n"
    )
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(ROOT / "accelerate_configs" / "cpu_ddp.yaml"), str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(launcher, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for preset, one in alone.items():
        two = json.loads((tmp_path / f"{preset}.json").read_text())
        assert two["processes"] == 2
        for name in ("loss", "perplexity", "bits_per_byte", "accuracy", "top5_accuracy"):
            assert two[name] == pytest.approx(getattr(one.total, name), rel=1e-9)
        for name in ("source0", "source1"):
            own = one.sources[str(tmp_path / name)]
            assert two["sources"][name]["perplexity"] == pytest.approx(own.perplexity, rel=1e-9)
            assert two["sources"][name]["tokens"] == own.tokens


# --- prepared datasets ----------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path, tokenizer_folder):
    """Two sources, one of which counts three times; all of it in train, and documents of several rows."""
    for name, count in (("left", 30), ("right", 20)):
        for number in range(count):
            path = tmp_path / name / f"{number:02d}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name} {number}\n" + f"func {name}{number * 7} return err nil\n" * (number % 9 * 4 + 1))
    source = [f"path={tmp_path / 'left'},weight=3,name=left", f"path={tmp_path / 'right'},weight=1,name=right"]
    data = DataArguments(source=source, block_size=BLOCK, dedup="off", split_ratios="0.8,0,0.2")
    return prepare_dataset(data, TokenizerArguments(tokenizer=str(tokenizer_folder)), tmp_path / "prepared")


@pytest.mark.parametrize("split", ["train", "test"])
def test_documents_are_put_together_again_from_rows(split, prepared, tokenizer):
    """Also those that stand there several times, and those that are cut into many pieces."""
    text = text_of_dataset(prepared, split)
    found = sorted(
        (text.sources[source], tokenizer.decode(ids)) for source, ids in zip(text.source_of, text.documents, strict=True)
    )
    lines = [json.loads(line) for line in (prepared.path / "documents.jsonl").read_text().splitlines()]
    assert len(set(found)) == len([line for line in lines if line["split"] == split]) >= 5
    for name, document in found:
        assert document.startswith(f"{name} ")
        number = int(document.split()[1])
        assert document == f"{name} {number}\n" + f"func {name}{number * 7} return err nil\n" * (number % 9 * 4 + 1)
    if split == "train":
        assert len(found) > len(set(found)), "a weighted source has copies"


def test_a_split_s_figures_are_those_of_the_trainer_and_by_source(preset, saved, prepared, tokenizer, tmp_path):
    from helpers import forge_trainer

    folder, model = saved(preset)
    found = evaluate_model(EvaluationArguments(model=str(folder), dataset_dir=str(prepared.path), split="test"))
    own = forge_trainer(model, tokenizer, tmp_path, evaluate=prepared.rows("test")).evaluate()
    for name in ("loss", "perplexity", "bits_per_byte", "accuracy", "tokens", "bytes"):
        assert getattr(found.total, name) == pytest.approx(own[f"eval_{name}"], rel=1e-5)
    assert set(found.sources) == {"left", "right"}
    assert sum(part.tokens for part in found.sources.values()) == found.total.tokens
    text = text_of_dataset(prepared, "test")
    for number, name in enumerate(text.sources):
        part = [tokenizer.decode(ids) for ids, of in zip(text.documents, text.source_of, strict=True) if of == number]
        same(found.sources[name], counted(model, tokenizer, part))


def test_a_dataset_of_another_tokenizer_is_refused_before_anything_runs(saved, prepared, tmp_path, monkeypatch, capsys):
    folder, _ = saved("gpt2-10m")
    words = " ".join(f"{left}{right}" for left in "abcdefghij" for right in "klmnopqrst")
    other = train_tokenizer([words], TokenizerArguments(vocab_size=330, min_frequency=1))
    other.save(folder)
    monkeypatch.setattr(on_text, "segment_sums", lambda *_: pytest.fail("it ran"))
    assert cli.main(["evaluate", "--model", str(folder), "--dataset_dir", str(prepared.path)]) == 3
    error = capsys.readouterr().err
    assert "was tokenized with another tokenizer" in error
    assert error.count("\n") == 1


def test_tokens_added_since_do_not_make_it_another_tokenizer(saved, prepared, tokenizer, tmp_path):
    folder, _ = saved("gpt2-10m")
    from transformers import AutoTokenizer

    more = AutoTokenizer.from_pretrained(folder)
    more.add_tokens(["<new>"])
    more.save_pretrained(folder)
    found = evaluate_model(EvaluationArguments(model=str(folder), dataset_dir=str(prepared.path), split="test"))
    assert found.total.tokens > 100


# --- intervals and zstd ---------------------------------------------------------------------------


def test_intervals_are_those_of_theory_and_always_the_same():
    """Documents of equal length with losses of a known spread: the mean's standard error is known."""
    source = np.random.default_rng(1)
    losses = source.normal(3.0, 0.5, 400)
    sums = np.stack(
        [losses * 100, np.full(400, 100.0), np.full(400, 30.0), np.full(400, 250.0), losses * 100, np.full(400, 60.0)], 1
    )
    found = figures_of(sums, np.arange(400), np.ones(400, bool), 1)
    low, high = found.intervals["loss"]
    error = 1.96 * losses.std() / 20
    assert (low, high) == pytest.approx((losses.mean() - error, losses.mean() + error), abs=0.1 * error)
    assert found.intervals["perplexity"] == pytest.approx((math.exp(low), math.exp(high)))
    assert found.intervals["accuracy"] == (0.3, 0.3)
    assert found == figures_of(sums, np.arange(400), np.ones(400, bool), 1)


def test_pieces_of_one_document_stand_and_fall_together():
    """Resampling them one by one would promise more than there is."""
    source = np.random.default_rng(2)
    by_document = np.repeat(source.normal(3.0, 0.5, 20), 10)
    sums = np.stack([by_document, *[np.ones(200)] * 3, by_document, np.ones(200)], 1)
    document_of = np.repeat(np.arange(20), 10)
    whole = figures_of(sums, document_of, np.ones(20, bool), 1)
    parts = figures_of(sums[:50], document_of[:50], np.ones(20, bool), 1)
    assert (whole.resampled, parts.resampled) == ("documents", "pieces")
    low, high = whole.intervals["loss"]
    apart_low, apart_high = figures_of(sums, np.arange(200), np.ones(200, bool), 1).intervals["loss"]
    assert high - low > 2 * (apart_high - apart_low)


def test_a_single_piece_has_no_interval(saved, tmp_path):
    folder, _ = saved("gpt2-10m")
    (tmp_path / "x.txt").write_text("package data")
    assert evaluated(folder, [tmp_path / "x.txt"]).total.intervals == {}


def test_zstd_packs_the_same_bytes(saved, texts):
    folder, _ = saved("gpt2-10m")
    found = evaluated(folder, texts)
    total = 0
    for path in texts:
        joined = "".join(documents_of(path)).encode()
        packed = found.sources[str(path)].zstd_bytes
        assert packed == zstd_size(joined)
        assert abs(packed - len(zstandard.compress(joined, 19))) <= 32
        total += packed
    assert found.total.zstd_bytes == total
    assert found.total.zstd_bits_per_byte == pytest.approx(8 * total / found.total.bytes)


# --- the command ----------------------------------------------------------------------------------


def test_json_has_the_figures_at_the_top_and_the_file_too(saved, texts, capsys):
    folder, _ = saved("gpt2-10m")
    flags = ["--corpus", *map(str, texts), "--block_size", str(BLOCK), "--format", "text", "--json"]
    assert cli.main(["evaluate", "--model", str(folder), *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"loss", "perplexity", "bits_per_byte", "tokens", "bytes", "accuracy", "top5_accuracy", "zstd_bits_per_byte"} <= set(
        told
    )
    low, high = told["intervals"]["perplexity"]
    assert low < told["perplexity"] < high
    written = json.loads((folder / "eval.json").read_text())
    assert written["perplexity"] == told["perplexity"]
    assert (written["block_size"], written["stride"], written["data"]) == (BLOCK, None, ", ".join(map(str, texts)))


def test_the_table_fits_and_says_what_the_brackets_are(saved, texts, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder, _ = saved("gpt2-10m")
    flags = ["--corpus", *map(str, texts), "--block_size", str(BLOCK), "--stride", "8", "--format", "text"]
    assert cli.main(["evaluate", "--model", str(folder), *flags]) == 0
    shown = capsys.readouterr().out
    assert "stride 8" in shown
    assert "bootstrap resamples" in shown
    assert "perplexity" in shown
    assert max(cell_len(line) for line in shown.splitlines() if line.startswith("│")) <= 80


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        ([], "--model is not given", 2),
        (["--model", "{model}"], "no text to evaluate on", 2),
        (["--model", "{model}", "--corpus", "x", "--dataset_dir", "y"], "are both given", 2),
        (["--model", "{model}", "--corpus", "gone"], "gone", 3),
        (["--model", "{model}", "--dataset_dir", "gone"], "is no prepared dataset", 3),
        (["--model", "gone/away/far", "--corpus", "{text}"], "no such folder", 4),
        (["--model", "{model}", "--corpus", "{text}", "--block_size", "4096"], "longer than the model's 1024 positions", 2),
        (["--model", "{model}", "--corpus", "{text}", "--block_size", "32", "--stride", "64"], "--stride 64 is longer", 2),
        (["--model", "{model}", "--corpus", "{text}", "--stride", "0"], "--stride 0 is too small", 2),
        (["--model", "{model}", "--corpus", "{text}", "--strid", "8"], "--stride", 2),
    ],
)
def test_what_is_refused_is_told_in_one_line(flags, words, code, saved, tmp_path, capsys):
    folder, _ = saved("gpt2-10m")
    (tmp_path / "x.txt").write_text("package data")
    given = [flag.format(model=folder, text=tmp_path / "x.txt") for flag in flags]
    assert cli.main(["evaluate", *given]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (folder / "eval.json").exists()


def test_a_split_that_is_not_there(saved, prepared):
    folder, _ = saved("gpt2-10m")
    with pytest.raises(DataError, match=r"--split validation.*It has train, test"):
        evaluate_model(EvaluationArguments(model=str(folder), dataset_dir=str(prepared.path), split="validation"))


def test_paths_in_a_config_file_are_found_from_it(saved, tmp_path, monkeypatch):
    folder, _ = saved("gpt2-10m")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.txt").write_text("package data")
    (tmp_path / "inner" / "eval.yaml").write_text("corpus: [x.txt]\nblock_size: 32\n")
    found = evaluation.main(["--model", str(folder), "--config", "inner/eval.yaml", "--output", "out.json"])
    assert found.total.documents == 1
    assert Path("out.json").is_file()


# --- --eval_only ----------------------------------------------------------------------------------


def test_eval_only_evaluates_what_a_run_has_trained_and_trains_nothing(corpus, capsys):
    run = ["--corpus", str(corpus), "--output_dir", "run"]
    assert pretrain_command(*run, "--max_steps", "6") == 0
    trained = json.loads(Path("run/eval.json").read_text())
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "eval.json"}
    with pytest.raises(SystemExit) as stop:
        pretrain_command(*run, "--eval_only")
    assert stop.value.code == 0
    again = json.loads(Path("run/eval.json").read_text())
    assert (again["split"], again["model"]) == ("test", "run/final")
    for name in ("loss", "bits_per_byte", "accuracy", "tokens", "bytes"):
        assert again[name] == pytest.approx(trained[name], rel=1e-5)
    with pytest.raises(SystemExit):
        pretrain_command(*run, "--eval_only", "--resume", "checkpoint-3")
    early = json.loads(Path("run/eval-checkpoint-3.json").read_text())
    assert early["loss"] > again["loss"]
    Path("run/eval-checkpoint-3.json").unlink()
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "eval.json"}
    assert before == after
    capsys.readouterr()
    assert pretrain_command(*run, "--eval_only", "--resume", "checkpoint-4") == 4
    assert "no such checkpoint" in capsys.readouterr().err
    assert pretrain_command("--corpus", str(corpus), "--output_dir", "other", "--eval_only") == 4
    assert pretrain_command("--corpus", str(corpus), "--eval_only") == 2


def test_without_a_text_it_is_what_the_run_held_out(corpus, capsys):
    run = ["--corpus", str(corpus), "--output_dir", "run", "--max_steps", "3"]
    assert pretrain_command(*run) == 0
    held_out = json.loads(Path("run/eval.json").read_text())
    capsys.readouterr()
    found = evaluation.main(["--model", "run", "--samples", "0"])
    assert "held out from training" in capsys.readouterr().err
    assert (found.settings["split"], found.settings["trained_on"]) == ("test", [])
    assert found.total.loss == pytest.approx(held_out["loss"], rel=1e-5)
    data = json.loads(Path("run/run.json").read_text())["data"]["path"]
    for text in ([], ["--dataset_dir", data]):  # the training split is what was asked for, and seen
        found = evaluation.main(["--model", "run", "--split", "train", "--samples", "0", *text])
        assert (found.settings["split"], found.settings["trained_on"]) == ("train", [data])
        told = " ".join(capsys.readouterr().err.split())
        assert "held out from training" not in told
        assert "was trained on text of" in told
        assert "With --model alone a held-out split of its run is evaluated." in told
    assert evaluation.main(["--model", "run", "--dataset_dir", data, "--samples", "0"]).settings["trained_on"] == []
    with pytest.raises(SystemExit):  # and so does --eval_only, which needs no corpus to be told again
        pretrain_command("--output_dir", "run", "--eval_only")
    assert json.loads(Path("run/eval.json").read_text())["loss"] == pytest.approx(held_out["loss"], rel=1e-5)
    with pytest.raises(SystemExit):  # a checkpoint says which run it is of
        pretrain_command("--eval_only", "--resume", "run/checkpoint-3")
    early = json.loads(Path("run/eval-checkpoint-3.json").read_text())
    assert early["loss"] == pytest.approx(held_out["loss"], rel=1e-5)
    assert pretrain_command("--output_dir", "run", "--resume") == 3
    assert "There is no corpus: --resume is added to the command that began the run. That was: " in capsys.readouterr().err
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(record | {"data": record["data"] | {"path": "gone"}}))
    with pytest.raises(ConfigError, match=r"no text to evaluate on.*--dataset_dir DIR, --corpus FILES"):
        evaluation.main(["--model", "run"])


def test_text_that_the_model_was_trained_on_is_told(corpus, tmp_path, capsys):
    """Whoever asks whether a model is any good gives what is at hand, which is what it was trained on."""
    assert pretrain_command("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "3", "--split_ratios", "1") == 0
    (tmp_path / "other.txt").write_text("func other() {}\n" * 9)
    one = next(path for path in sorted(corpus.rglob("*")) if path.is_file())
    for text, seen in ((corpus, True), (one, True), (corpus / ".." / corpus.name, True), (tmp_path / "other.txt", False)):
        capsys.readouterr()
        found = evaluation.main(["--model", "run", "--corpus", str(text), "--samples", "0", "--format", "auto"])
        assert bool(found.settings["trained_on"]) is seen, text
        told = " ".join(capsys.readouterr().err.split())
        assert ("was trained on text of" in told) is seen
        assert ("Give text that it has not seen." in told) is seen  # the run held nothing out
        assert bool(json.loads(Path("run/final/eval.json").read_text())["trained_on"]) is seen


def test_the_context_is_what_the_run_was_trained_on(corpus, tmp_path):
    """Not the 1,024 positions it has: beyond the rows of the run they were never trained."""
    assert pretrain_command("--corpus", str(corpus), "--output_dir", "run") == 0
    found = evaluation.main(["--model", "run", "--corpus", str(corpus), "--output", "e.json"])
    assert found.settings["block_size"] == 32
    assert load_prepared(json.loads(Path("run/run.json").read_text())["data"]["path"]).block_size == 32


def test_settings_that_do_not_go_together():
    with pytest.raises(ConfigError, match="both given"):
        EvaluationArguments(dataset_dir="x", corpus=["y"])
