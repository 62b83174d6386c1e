"""What is said when a run has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerState

from llmforge.pretrain import parse_pretrain
from llmforge.results import RunResult, next_commands


@pytest.fixture
def told(corpus):
    """``told(losses, best, *flags)``: the advice after so many evaluations, one each ten steps."""

    def tell(losses: list[float], best: int, *flags: str, epoch: float = 1.0, chosen: dict | None = None) -> str:
        config = parse_pretrain(["--corpus", str(corpus), "--report_to", "none", *flags])
        config.deadline.chosen = chosen or {}
        history = [{"eval_loss": loss, "step": 10 * number} for number, loss in enumerate(losses)]
        state = TrainerState(log_history=history, global_step=history[-1]["step"], epoch=epoch)
        result = RunResult(Path("runs/mine"), Path("runs/mine/final"), "best", best, end={"loss": min(losses)})
        return next_commands(config, result, state)

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
    assert "longer --deadline" in told([5.0, 4.0], 10, *bounded, chosen={"num_train_epochs": 16.0})
    assert "more text" in told([5.0, 4.0], 10, *bounded, chosen={"num_train_epochs": 16.0}, epoch=16.0)
