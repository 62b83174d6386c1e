"""What is known of a run and need not be told again, by made-up records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmforge.configs.data import DataArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.prepare import prepare_dataset
from llmforge.errors import ConfigError, DataError
from llmforge.evaluation import on_own_data
from llmforge.pretrain import parse_pretrain
from llmforge.recall import text_of_run


@pytest.fixture
def run(corpus, tmp_path):
    """Writes the folder of a run on the corpus, but for its weights, and returns it; its data are in ``prepared``."""

    def write(ratios: str = "0.8,0.1,0.1", **record: Any) -> Path:
        args = DataArguments(corpus=str(corpus), block_size=2048, split_ratios=ratios)
        data = prepare_dataset(args, TokenizerArguments(vocab_size=400))
        shutil.copytree(data.path, tmp_path / "prepared")
        folder = tmp_path / "runs" / "one"
        for name in ("final", "checkpoint-3"):
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text("{}")
        told = {"folder": str(tmp_path), "data": {"path": "prepared", "fingerprint": data.fingerprint}}
        (folder / "run.json").write_text(json.dumps(told | record))
        return folder

    return write


def test_text_is_no_text_where_it_is_the_rows_of_a_task_or_half_gone(run, tmp_path):
    folder = run()
    for model in (folder / "final", folder / "checkpoint-3"):
        found = text_of_run(model)
        assert found is not None
        assert found.path == tmp_path / "prepared"
    (tmp_path / "prepared" / "task.yaml").write_text("name: qa")
    assert text_of_run(folder / "checkpoint-3") is None
    (tmp_path / "prepared" / "task.yaml").unlink()
    shutil.rmtree(tmp_path / "prepared" / "dataset")
    assert text_of_run(folder / "final") is None


@pytest.mark.parametrize(
    ("ratios", "given", "split"),
    [
        ("0.8,0.1,0.1", {}, "test"),
        ("0.8,0.1,0.1", {"split": "validation"}, "validation"),
        ("0.8,0.1,0.1", {"split": "train"}, "train"),
        ("0.8,0.2", {}, "validation"),
        ("1", {}, None),
        ("1", {"split": "train"}, "train"),
    ],
)
def test_only_what_was_held_out_is_chosen_unasked(run, ratios, given, split, tmp_path):
    args = EvaluationArguments(**given)
    chosen = on_own_data(args, run(ratios) / "final")
    if split is None:
        assert chosen is args
    else:
        assert (chosen.dataset_dir, chosen.split) == (str(tmp_path / "prepared"), split)


def test_a_run_is_evaluated_whatever_shape_the_flags_do_not_say(run):
    """Its rows are of 2,048 tokens, and the preset that is not given has 1,024 positions."""
    folder = run()
    config = parse_pretrain(["--output_dir", str(folder), "--eval_only"])
    assert Path(str(config.data.dataset_dir)).name == "prepared"
    assert config.data.block_size == 2048
    with pytest.raises(ConfigError, match="2048"):
        parse_pretrain(["--dataset_dir", "prepared"])


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("llmforge pretrain --corpus docs", "That was: llmforge pretrain --corpus docs"),
        ("/lib/ipykernel_launcher.py -f /run/kernel-1.json", ""),
        (None, ""),
    ],
)
def test_of_a_run_to_be_resumed_it_is_told_how_it_began(run, command, told):
    folder = run(command=command)
    for words in (["--output_dir", str(folder), "--resume"], ["--resume", str(folder / "checkpoint-3")]):
        with pytest.raises(DataError, match="There is no corpus: --resume is added to the command that began the run") as refused:
            parse_pretrain(words)
        assert refused.value.remedy == told
