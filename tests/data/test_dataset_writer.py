"""Rows written without `datasets` are what `datasets` would have written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict, load_from_disk

from llmforge.data.dataset_writer import SplitWriter, write_dataset_dict
from llmforge.data.packing import Batch, pack, pack_split
from llmforge.data.rows import PackedRows, features, to_dataset

BLOCK = 16


def documents(count: int = 200, dtype=np.uint16, seed: int = 0) -> list[np.ndarray]:
    source = np.random.RandomState(seed)
    return [source.randint(2, 60_000, source.randint(0, 40)).astype(dtype) for _ in range(count)]


def batch(some: list[np.ndarray], dtype=np.uint16) -> Batch:
    lengths = np.array([len(one) for one in some], dtype=np.int64)
    return Batch(np.concatenate([np.zeros(0, dtype), *some]), lengths, np.arange(len(some)))


def write(folder: Path, some: list[np.ndarray], dtype=np.uint16, window: int = 300, **settings) -> SplitWriter:
    with SplitWriter(folder / "train", BLOCK, np.dtype(dtype), **settings) as writer:
        for rows in pack_split([batch(some, dtype)], BLOCK, 0, 1, window):
            writer.write(rows)
    write_dataset_dict(folder, ["train"])
    return writer


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_datasets_reads_what_it_would_have_written_itself(tmp_path, dtype):
    some = documents(dtype=dtype)
    write(tmp_path / "ours", some, dtype, window=10**6)
    DatasetDict(train=to_dataset(pack(some, range(len(some)), BLOCK, 0, 1))).save_to_disk(str(tmp_path / "theirs"))
    ours, theirs = (DatasetDict.load_from_disk(str(tmp_path / name)) for name in ("ours", "theirs"))
    assert ours["train"].features == theirs["train"].features == features(BLOCK, np.dtype(dtype))
    assert ours["train"].data.schema.equals(theirs["train"].data.schema, check_metadata=True)
    assert ours["train"].to_list() == theirs["train"].to_list()
    for name in ("dataset_dict.json", "train/dataset_info.json"):
        assert json.loads((tmp_path / "ours" / name).read_text()) == json.loads((tmp_path / "theirs" / name).read_text())
    own, other = (json.loads((tmp_path / side / "train" / "state.json").read_text()) for side in ("ours", "theirs"))
    assert own | {"_fingerprint": ""} == other | {"_fingerprint": ""}
    assert isinstance(load_from_disk(str(tmp_path / "ours")), DatasetDict)


def test_a_large_split_goes_on_in_other_files(tmp_path):
    some = documents()
    writer = write(tmp_path, some, file_bytes=2000)
    names = sorted(path.name for path in (tmp_path / "train").glob("*.arrow"))
    assert len(names) > 3
    assert names == [f"data-{number:05d}-of-{len(names):05d}.arrow" for number in range(len(names))]
    assert max(path.stat().st_size for path in (tmp_path / "train").glob("*.arrow")) < 6000
    read = DatasetDict.load_from_disk(str(tmp_path))["train"]
    expected = [rows for window in pack_split([batch(some)], BLOCK, 0, 1, 300) for rows in window.input_ids.tolist()]
    assert read["input_ids"][:] == expected
    assert writer.rows == len(read)
    assert writer.tokens == sum(len(one) + 1 for one in some) == sum(sum(lengths) for lengths in read["segment_lengths"][:])


def test_packed_rows_reads_every_file_by_map(tmp_path):
    some = documents()
    write(tmp_path, some, file_bytes=3000)
    rows = PackedRows(DatasetDict.load_from_disk(str(tmp_path))["train"], pad=1)
    found: dict[int, list[int]] = {}
    for index in range(len(rows)):
        row, start = rows[index], 0
        for length, number in zip(row["segment_lengths"], row["segment_documents"], strict=True):
            found.setdefault(int(number), []).extend(row["input_ids"][start : start + length].tolist())
            start += length
    assert {number: sorted(ids) for number, ids in found.items()} == {
        number: sorted([0, *one.tolist()]) for number, one in enumerate(some)
    }


def test_a_split_without_rows_can_be_loaded(tmp_path):
    assert write(tmp_path, []).rows == 0
    read = DatasetDict.load_from_disk(str(tmp_path))["train"]
    assert len(read) == 0
    assert read.features == features(BLOCK, np.dtype(np.uint16))


def test_the_fingerprint_is_of_the_content(tmp_path):
    """`datasets` keeps what it makes of rows under it."""

    def fingerprint(name: str, seed: int, **settings) -> str:
        write(tmp_path / name, documents(seed=seed), **settings)
        return DatasetDict.load_from_disk(str(tmp_path / name))["train"]._fingerprint

    first = fingerprint("a", 0)
    assert first == fingerprint("b", 0)
    assert first != fingerprint("c", 1)


def test_rows_of_another_shape_are_refused(tmp_path):
    rows = pack(documents(), range(200), BLOCK * 2 + 1, 0, 1)
    with pytest.raises(ValueError), SplitWriter(tmp_path, BLOCK, np.dtype(np.uint16)) as writer:
        writer.write(rows)


def test_an_exception_leaves_no_state_behind(tmp_path):
    with pytest.raises(KeyError), SplitWriter(tmp_path, BLOCK, np.dtype(np.uint16)):
        raise KeyError
    assert not (tmp_path / "state.json").exists()


def test_it_needs_neither_datasets_nor_torch(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from llmforge.data.packing import pack;"
        "from llmforge.data.dataset_writer import SplitWriter;"
        f"writer = SplitWriter(Path({str(tmp_path)!r}), 8, np.dtype('uint16'));"
        "writer.__enter__(); writer.write(pack([np.arange(9, dtype='uint16')], [0], 8, 0, 1)); writer.__exit__(None, None, None);"
        "assert not {'datasets', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
