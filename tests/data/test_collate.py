"""From packed rows to a batch."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from helpers import awkward_documents, packed_rows

from llmforge.data.collate import PackedCollator
from llmforge.data.rows import BLANK, PackedRows


def row(ids, lengths, targets):
    return {
        "input_ids": np.array(ids, np.uint16),
        "segment_lengths": np.array(lengths, np.int32),
        "segment_targets": np.array(targets, np.int32),
        "segment_documents": np.zeros(len(lengths), np.int32),
    }


BLANK_ROW = row([1, 1, 1, 1, 1, 1], [], [])


def collate(*rows):
    batch = PackedCollator()(rows)
    segments = batch.pop("segments")
    assert segments.shape == batch["input_ids"].shape
    # Where the positions restart is where a segment begins.
    begins = (batch["position_ids"].reshape(-1) == 0).nonzero().squeeze(1)
    assert segments.cumulative.tolist() == [*begins.tolist(), batch["position_ids"].numel()]
    assert segments.lengths.tolist() == segments.cumulative.diff().tolist()
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_a_batch_of_rows_with_several_segments_and_padding():
    batch = collate(
        row([0, 10, 11, 12, 13, 14], [6], [15]),
        row([0, 20, 21, 22, 0, 30], [4, 2], [0, 0]),
        row([15, 16, 1, 1, 1, 1], [2], [0]),
    )
    assert batch == {
        "input_ids": [[0, 10, 11, 12, 13, 14], [0, 20, 21, 22, 0, 30], [15, 16, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3]],
        "shift_labels": [[10, 11, 12, 13, 14, 15], [20, 21, 22, 0, 30, 0], [16, 0, -100, -100, -100, -100]],
        "labels": [[-100, 10, 11, 12, 13, 14], [-100, 20, 21, 22, 0, 30], [-100, 16, 0, -100, -100, -100]],
    }


def test_one_segment_that_fills_the_row():
    batch = collate(row([0, 5, 6], [3], [0]))
    assert batch["position_ids"] == [[0, 1, 2]]
    assert batch["shift_labels"] == [[5, 6, 0]]


@pytest.mark.parametrize("place", [0, 1])
def test_a_blank_row_predicts_nothing_and_disturbs_no_other(place):
    real = row([0, 20, 21, 22, 0, 30], [4, 2], [0, 0])
    rows = [real]
    rows.insert(place, BLANK_ROW)
    batch = collate(*rows)
    assert batch["shift_labels"][place] == batch["labels"][place] == [-100] * 6
    assert batch["position_ids"][place] == [0, 1, 2, 3, 4, 5]
    alone = collate(real)
    assert all(batch[name][1 - place] == alone[name][0] for name in batch)


def test_a_batch_of_nothing_but_blank_rows():
    assert collate(BLANK_ROW, BLANK_ROW)["shift_labels"] == [[-100] * 6] * 2


def test_a_segment_of_one_token():
    batch = collate(row([0, 0, 9, 1], [1, 2], [0, 0]))
    assert batch["position_ids"] == [[0, 0, 1, 0]]
    assert batch["shift_labels"] == [[0, 9, 0, -100]]


@pytest.fixture
def awkward(tokenizer):
    documents = awkward_documents(tokenizer)
    rows = packed_rows(documents, tokenizer)
    return documents, PackedCollator()([rows[i] for i in range(len(rows))] + [rows[BLANK]])


def test_both_conventions_count_the_same_targets(awkward):
    _, batch = awkward
    assert torch.equal(batch["labels"][:, 1:], batch["shift_labels"][:, :-1])
    assert (batch["labels"][:, 0] == -100).all()


def test_every_token_of_every_document_is_predicted_once(awkward, tokenizer):
    documents, batch = awkward
    targets = batch["shift_labels"][batch["shift_labels"] != -100]
    expected = np.concatenate([np.append(document, tokenizer.eos_token_id) for document in documents])
    assert sorted(targets.tolist()) == sorted(expected.tolist())


def test_padding_is_never_a_target(awkward, tokenizer):
    assert not (awkward[1]["shift_labels"] == tokenizer.pad_token_id).any()


def test_there_is_no_attention_mask_and_ids_are_int64(awkward):
    _, batch = awkward
    assert set(batch) == {"input_ids", "position_ids", "labels", "shift_labels", "segments"}
    del batch["segments"]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert len({tensor.shape for tensor in batch.values()}) == 1


def test_a_row_gives_the_same_in_any_batch(tokenizer):
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    together = collate(*(rows[i] for i in range(len(rows))))
    for i in range(len(rows)):
        assert {name: [values[i]] for name, values in together.items()} == collate(rows[i])


def test_a_batch_does_not_write_into_the_rows():
    source = row([0, 20, 21, 22, 0, 30], [4, 2], [0, 0])
    source["input_ids"].flags.writeable = False
    PackedCollator()([source])["input_ids"].zero_()
    assert source["input_ids"].tolist() == [0, 20, 21, 22, 0, 30]


def collate_row_by_row(rows):
    """The four tensors, token by token, without anything of the library."""
    found = {name: [] for name in ("input_ids", "position_ids", "labels", "shift_labels")}
    for given in rows:
        ids = [int(token) for token in given["input_ids"]]
        positions, targets = [], []
        for length, target in zip(given["segment_lengths"].tolist(), given["segment_targets"].tolist(), strict=True):
            start = len(positions)
            positions += range(length)
            targets += [*ids[start + 1 : start + length], target]
        rest = len(ids) - len(positions)
        found["input_ids"].append(ids)
        found["position_ids"].append([*positions, *range(rest)])
        found["shift_labels"].append([*targets, *[-100] * rest])
        found["labels"].append([-100, *found["shift_labels"][-1][:-1]])
    return found


@pytest.mark.parametrize("most", [None, 9])
def test_a_batch_fetched_together_equals_its_rows_one_by_one(tokenizer, tmp_path, most):
    """Blank rows first, last and in between, rows from several chunks of the map and twice the same, a chosen subset."""
    documents = awkward_documents(tokenizer, count=300)
    whole = packed_rows(documents, tokenizer).dataset
    parts = datasets.concatenate_datasets(
        [whole.select(range(20)), whole.select(range(20, 21)), whole.select(range(21, len(whole)))]
    )
    rows = PackedRows(parts, pad=tokenizer.pad_token_id, most=most)
    assert len(rows._ids) == 3
    source = np.random.RandomState(0)
    last = len(rows) - 1
    batches = [[0], [BLANK], [BLANK, last, 3, 3, BLANK, 0], [BLANK, BLANK], *source.randint(0, len(rows), (20, 8)).tolist()]
    for indices in batches:
        fetched = rows.__getitems__(indices)
        expected = collate_row_by_row([rows[index] for index in indices])
        assert collate(*(rows[index] for index in indices)) == expected
        assert collate(*fetched) == expected
        batch = PackedCollator()(fetched)
        ends = batch.pop("segments").cumulative.tolist()
        assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        assert ends == [i for i, p in enumerate(sum(expected["position_ids"], [])) if p == 0] + [32 * len(indices)]


def test_a_row_that_is_not_there_is_refused_in_a_batch_as_well(tokenizer):
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    for index in (len(rows), -2):
        with pytest.raises(IndexError):
            rows.__getitems__([0, index])
