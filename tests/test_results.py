"""What is said when a run has ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from llmforge.pretrain import parse_pretrain
from llmforge.results import RunResult, _summary, next_commands
from llmforge.runtime.logs import console
from llmforge.scoring import show
from llmforge.scoring.samples import Sample


@pytest.fixture
def told(corpus):
    """``told(losses, best, *flags)``: the advice after so many evaluations, one each ten steps."""

    def tell(losses: list[float], best: int, *flags: str, epoch: float = 1.0) -> str:
        config = parse_pretrain(["--corpus", str(corpus), "--report_to", "none", *flags])
        history = [{"eval_loss": loss, "step": 10 * number} for number, loss in enumerate(losses)]
        state = TrainerState(log_history=history, global_step=history[-1]["step"], epoch=epoch)
        result = RunResult(Path("runs/mine"), Path("runs/mine/final"), "best", best, end={"loss": min(losses)})
        return next_commands(result, config, state)

    return tell


def test_it_names_what_can_be_done_with_the_model(told):
    text = told([5.0, 4.0], 10)
    for command in (
        "generate --model runs/mine --prompt",
        "evaluate --model runs/mine",
        "export --model runs/mine --format gguf",
    ):
        assert f"llmforge {command}" in text
    assert "tensorboard" not in text  # nothing was written for it
    assert "--resume --max_steps N" in text


def test_more_steps_are_not_advised_where_they_made_it_worse(told):
    text = told([5.0, 4.0, 4.4], 10)
    assert "after step 10 of 20 validation became worse (docs/troubleshooting.md#overfitting)" in text
    assert "--max_steps N" not in text
    assert "--max_steps N" in told([5.0, 4.0, 4.01], 10)  # no more than noise


def test_more_time_is_not_advised_where_the_corpus_is_used_up(told):
    bounded = ("--deadline", "1h", "--preset", "gpt2-10m", "--num_train_epochs", "16")
    assert "longer --deadline" in told([5.0, 4.0], 10, *bounded)
    assert "more text" in told([5.0, 4.0], 10, *bounded, epoch=16.0)
    assert "more text" not in told([5.0, 4.0], 10, *bounded, "--max_steps", "10", epoch=16.0)


def test_a_path_with_a_space_can_be_pasted(corpus):
    config = parse_pretrain(["--corpus", str(corpus), "--report_to", "none"])
    result = RunResult(Path("my runs/one two"), Path("my runs/one two/final"), "last", 3)
    text = next_commands(result, config, TrainerState(global_step=3))
    assert "--model 'my runs/one two'" in text
    assert "--output 'one two.gguf'" in text
    assert "evaluate" not in text  # nothing was held out


def test_the_test_split_is_shown_where_there_is_one(capsys):
    folder, values = Path("runs/one"), {"loss": 4.4, "perplexity": 81.5, "bits_per_byte": 2.5, "accuracy": 0.2}
    result = RunResult(folder, folder / "final", "best", 5, values, values, values | {"perplexity": 97.25})
    console().print(_summary(result, SimpleNamespace(path=folder)))
    shown = capsys.readouterr().out
    assert "test" in shown
    assert "97.250" in shown
    result.test = {}
    console().print(_summary(result, SimpleNamespace(path=folder)))
    assert "test" not in capsys.readouterr().out


def test_a_sample_that_repeats_itself_leaves_the_figures_on_the_screen(capsys):
    show.show_samples({"": [Sample("prompt", "", {"greedy": "```\n\n" * 90, "top_p=0.9": "one\n\ntwo"})]})
    shown = capsys.readouterr().out
    assert shown.count("```") == 8
    assert "82 more lines" in shown
    assert "one" in shown
    assert "two" in shown
