"""From sums to metrics."""

from __future__ import annotations

import math

import evaluate
import numpy as np
import pytest

from llmforge.losses import SUM_NAMES
from llmforge.metrics import _COLUMNS, BitsPerByte, Perplexity, TokenAccuracy, summarise

# nll, tokens, correct, bytes, byte_nll
ROWS = np.array([[8.0, 4, 1, 10, 6.0], [2.0, 1, 1, 0, 0.0], [0.0, 0, 0, 0, 0.0], [5.0, 5, 2, 14, 4.0]])


def test_the_sums_are_divided_once_at_the_end():
    assert summarise(ROWS) == {
        "loss": 1.5,
        "perplexity": pytest.approx(math.exp(1.5)),
        "bits_per_byte": pytest.approx(10 / math.log(2) / 24),
        "accuracy": 0.4,
        "tokens": 10,
        "bytes": 24,
    }


def test_it_is_no_average_of_averages():
    of_rows = np.mean([summarise(row)["loss"] for row in ROWS[[0, 1, 3]]])
    assert summarise(ROWS)["loss"] != pytest.approx(of_rows)


def test_a_perfect_and_a_uniform_model():
    assert summarise(np.array([[0.0, 3, 3, 9, 0.0]]))["perplexity"] == 1
    uniform = summarise(np.array([[3 * math.log(50), 3, 0, 9, 3 * math.log(50)]]))
    assert uniform["perplexity"] == pytest.approx(50)


def test_one_bit_a_byte():
    assert summarise(np.array([[0.0, 8, 0, 8, 8 * math.log(2)]]))["bits_per_byte"] == pytest.approx(1)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 0, 3, 2]])
def test_the_order_of_the_rows_does_not_matter(order):
    assert summarise(ROWS[order]) == summarise(ROWS)


def test_rows_may_come_one_by_one_or_added_up():
    assert summarise(ROWS.sum(axis=0)) == summarise(ROWS) == summarise(ROWS.reshape(2, 2, 5))


def test_blank_rows_change_nothing():
    assert summarise(np.concatenate([ROWS, np.zeros((7, 5))])) == summarise(ROWS)


def test_special_tokens_stay_out_of_bits_per_byte_alone():
    without = summarise(ROWS[[0, 2, 3]])
    assert summarise(ROWS)["bits_per_byte"] == without["bits_per_byte"]
    assert summarise(ROWS)["loss"] != without["loss"]


@pytest.mark.parametrize("rows", [np.zeros((0, 5)), np.zeros((3, 5))])
def test_without_a_target_every_ratio_is_nan(rows):
    metrics = summarise(rows)
    assert all(math.isnan(metrics[name]) for name in ("loss", "perplexity", "bits_per_byte", "accuracy"))
    assert (metrics["tokens"], metrics["bytes"]) == (0, 0)


def test_only_special_tokens_leave_bits_per_byte_nan():
    metrics = summarise(ROWS[1:2])
    assert math.isnan(metrics["bits_per_byte"])
    assert metrics["loss"] == 2


@pytest.mark.parametrize(("nll", "perplexity"), [(1e6, math.inf), (math.inf, math.inf), (699.0, math.exp(699.0))])
def test_a_huge_loss_does_not_overflow(nll, perplexity):
    assert summarise(np.array([[nll, 1, 0, 1, nll]]))["perplexity"] == perplexity


def test_a_nan_loss_is_shown_and_not_hidden():
    metrics = summarise(np.array([[math.nan, 1, 0, 1, math.nan]]))
    assert math.isnan(metrics["loss"])
    assert math.isnan(metrics["perplexity"])


def test_counts_are_whole_numbers():
    metrics = summarise(ROWS)
    assert (type(metrics["tokens"]), type(metrics["bytes"])) == (int, int)


# --- as evaluate.Metric --------------------------------------------------------------------------


def test_the_columns_are_those_the_forward_pass_makes():
    assert _COLUMNS == SUM_NAMES


def test_each_works_alone_batch_by_batch():
    metric = Perplexity()
    metric.add_batch(nll=[8.0], tokens=[4])
    metric.add(nll=2.0, tokens=1)
    assert metric.compute() == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2)), "tokens": 5}
    assert BitsPerByte().compute(byte_nll=[8 * math.log(2)], bytes=[4]) == {"bits_per_byte": 2.0, "bytes": 4}
    assert TokenAccuracy().compute(correct=[1, 2], tokens=[4, 2]) == {"accuracy": 0.5}


def test_a_metric_can_be_used_again():
    metric = TokenAccuracy()
    assert metric.compute(correct=[1], tokens=[4])["accuracy"] == 0.25
    assert metric.compute(correct=[3], tokens=[4])["accuracy"] == 0.75


def test_they_combine():
    together = evaluate.combine([Perplexity(), BitsPerByte(), TokenAccuracy()])
    sums = dict(zip(SUM_NAMES, ROWS.T, strict=True))
    assert together.compute(**sums) == summarise(ROWS)
    assert set(evaluate.combine({"p": Perplexity(), "a": TokenAccuracy()}, force_prefix=True).compute(**sums)) == {
        "p_loss",
        "p_perplexity",
        "p_tokens",
        "a_accuracy",
    }


def test_sums_are_added_up_exactly():
    """So that neither batches nor processes change the last digit; adding in float64 would lose the ones."""
    nll = [1e16, 1.0, 1.0, -1e16]
    assert (
        Perplexity().compute(nll=nll, tokens=[1] * 4)["loss"]
        == Perplexity().compute(nll=nll[::-1], tokens=[1] * 4)["loss"]
        == 0.5
    )


def test_nothing_is_left_on_the_disk(tmp_path):
    Perplexity(cache_dir=str(tmp_path)).compute(nll=[1.0], tokens=[1])
    assert list(tmp_path.iterdir()) == []


def test_a_result_can_be_saved_the_way_evaluate_does(tmp_path):
    evaluate.save(tmp_path / "result.json", **Perplexity().compute(nll=[2.0], tokens=[2]))
    assert '"loss": 1.0' in (tmp_path / "result.json").read_text()
