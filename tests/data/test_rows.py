"""The row format on disk, and reading it as views into the memory map."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from llmforge.data.packing import pack
from llmforge.data.rows import BLANK, PackedRows, to_dataset
from llmforge.errors import DataError

COLUMNS = ["input_ids", "segment_lengths", "segment_targets", "segment_documents"]
BLOCK = 8


def packed(count: int = 60, dtype: type = np.uint16, seed: int = 0) -> Dataset:
    source = np.random.RandomState(seed)
    top = 60_000 if dtype is np.uint16 else 120_000
    documents = [source.randint(2, top, source.randint(0, 3 * BLOCK)).astype(dtype) for _ in range(count)]
    return to_dataset(pack(documents, range(count), BLOCK, 0, 1))


def on_disk(dataset: Dataset, folder: Path) -> Dataset:
    dataset.save_to_disk(str(folder))
    return load_from_disk(str(folder))


def as_lists(row) -> dict[str, list[int]]:
    return {name: row[name].tolist() for name in COLUMNS}


def assert_same(rows: PackedRows, dataset: Dataset) -> None:
    assert len(rows) == len(dataset)
    assert [as_lists(rows[i]) for i in range(len(rows))] == dataset.select_columns(COLUMNS).to_list()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_equal_the_dataset_in_memory_and_on_disk(tmp_path, dtype):
    dataset = packed(dtype=dtype)
    stored = on_disk(dataset, tmp_path / "d")
    assert_same(PackedRows(dataset, 1), dataset)
    assert_same(PackedRows(stored, 1), dataset)
    assert PackedRows(stored, 1)[0]["input_ids"].dtype == dtype
    assert stored.features["input_ids"].length == BLOCK


def test_rows_in_several_chunks(tmp_path):
    dataset = on_disk(packed(2600), tmp_path / "d")
    assert len(dataset) > 1000
    assert dataset.data.table.column("input_ids").num_chunks > 1
    assert_same(PackedRows(dataset, 1), dataset)


@pytest.mark.parametrize(
    "change",
    [
        lambda dataset: dataset.select([5, 3, 3, 40]),
        lambda dataset: dataset.select(range(7, 31)),
        lambda dataset: dataset.shuffle(seed=1),
        lambda dataset: dataset.shuffle(seed=1).select(range(5, 20)),
        lambda dataset: dataset.shard(3, 1),
        lambda dataset: dataset.add_column("other", ["x"] * len(dataset)),
    ],
    ids=["select", "select a range", "shuffle", "shuffle and select", "shard", "another column"],
)
def test_rows_of_a_changed_dataset(tmp_path, change):
    dataset = change(on_disk(packed(), tmp_path / "d"))
    assert_same(PackedRows(dataset, 1), dataset)


@pytest.mark.parametrize("most", [None, 5])
def test_a_loader_worker_sees_the_same_rows(tmp_path, most):
    rows = PackedRows(on_disk(packed(), tmp_path / "d"), 1, most=most)
    twin = pickle.loads(pickle.dumps(rows))
    assert len(twin) == len(rows)
    assert [as_lists(twin[i]) for i in [*range(len(rows)), BLANK]] == [as_lists(rows[i]) for i in [*range(len(rows)), BLANK]]


def test_a_loader_worker_is_not_sent_the_rows(tmp_path):
    small, large = (PackedRows(on_disk(packed(count), tmp_path / str(count)), 1) for count in (60, 2600))
    assert len(pickle.dumps(large)) < 1.5 * len(pickle.dumps(small))


def test_a_row_is_a_view_and_no_copy(tmp_path):
    rows = PackedRows(on_disk(packed(), tmp_path / "d"), 1)
    first, again = rows[3], rows[3]
    for name in COLUMNS:
        assert not first[name].flags.owndata
        assert np.shares_memory(first[name], again[name])


def test_a_batch_of_rows_is_their_list():
    rows = PackedRows(packed(), 1)
    assert [as_lists(row) for row in rows.__getitems__([4, 2, BLANK])] == [as_lists(rows[i]) for i in (4, 2, BLANK)]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_the_blank_row_is_all_padding_without_a_segment(dtype):
    blank = PackedRows(packed(dtype=dtype), pad=7)[BLANK]
    assert as_lists(blank) == {"input_ids": [7] * BLOCK, "segment_lengths": [], "segment_targets": [], "segment_documents": []}
    assert blank["input_ids"].dtype == dtype


def test_at_most_so_many_rows_evenly_spread():
    dataset = packed()
    everything = PackedRows(dataset, 1)
    few = PackedRows(dataset, 1, most=5)
    assert len(few) == 5
    spread = [round(i * (len(dataset) - 1) / 4) for i in range(5)]
    assert [as_lists(few[i]) for i in range(5)] == [as_lists(everything[i]) for i in spread]


@pytest.mark.parametrize("most", [1, 2, 30, 57])
def test_no_row_is_taken_twice(most):
    few = PackedRows(packed(), 1, most=most)
    assert len({tuple(few[i]["input_ids"].tolist()) for i in range(len(few))}) == most == len(few)


@pytest.mark.parametrize("most", [None, 10_000])
def test_no_limit_is_every_row(most):
    dataset = packed()
    assert_same(PackedRows(dataset, 1, most=most), dataset)


@pytest.mark.parametrize("index", [-2, 10_000])
def test_an_index_outside_is_an_error(index):
    with pytest.raises(IndexError):
        PackedRows(packed(), 1)[index]


def test_the_last_index_of_few_rows_is_their_own():
    with pytest.raises(IndexError):
        PackedRows(packed(), 1, most=5)[5]


def test_another_dataset_is_refused():
    with pytest.raises(DataError, match=r"no column segment_documents.*llmforge prepare"):
        PackedRows(Dataset.from_dict({"input_ids": [[1, 2]], "segment_lengths": [[2]], "segment_targets": [[0]]}), 1)
