"""Shards of token ids: how they are cut, and everything a file can get wrong or lie about."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import npz
from llmforge.errors import DataError


def npy(array, **settings) -> bytes:
    output = io.BytesIO()
    np.save(output, array, **settings)
    return output.getvalue()


def shard(compressed: bool = False, **arrays) -> bytes:
    output = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(output, **arrays)
    return output.getvalue()


def promising(shape, data: bytes = b"", descr: str = "<i4") -> bytes:
    """An .npy file whose header says `shape`, whatever the data."""
    output = io.BytesIO()
    np.lib.format.write_array_header_1_0(output, {"descr": descr, "fortran_order": False, "shape": shape})
    return output.getvalue() + data


def ids(documents):
    return {document.name: document.ids.tolist() for document in documents}


# How it is cut

STREAM = np.array([0, 5, 6, 0, 7, 0, 0, 8], dtype=np.int64)


@pytest.mark.parametrize("data", [npy(STREAM), shard(input_ids=STREAM), shard(True, anything=STREAM), npy(STREAM.astype(">i4"))])
def test_a_stream_is_cut_at_its_separators(gather, data):
    documents, account = gather(npz, data, options={"separator": 0, "vocab_size": 10})
    assert ids(documents) == {"f.x#1": [5, 6], "f.x#2": [7], "f.x#3": [8]}
    assert all(document.ids.dtype == np.uint16 and document.text == "" for document in documents)
    assert not account.skipped


def test_a_stream_without_a_separator_is_one_document(gather):
    assert ids(gather(npz, npy(STREAM))[0]) == {"f.x#1": STREAM.tolist()}


def test_rows_are_documents(gather):
    rows = np.array([[1, 2, 9, 9], [3, 9, 4, 9], [9, 9, 9, 9], [0, 5, 0, 6]])
    documents, account = gather(npz, shard(input_ids=rows), options={"pad": 9, "separator": 0})
    assert ids(documents) == {"f.x#1": [1, 2], "f.x#2": [3, 9, 4], "f.x#4": [5], "f.x#5": [6]}
    assert account.examples == {"empty": ["f.x#3"]}
    assert ids(gather(npz, npy(rows[:1]))[0]) == {"f.x#1": [1, 2, 9, 9]}


@pytest.mark.parametrize("shape", ["stream", "rows"])
def test_pieces_do_not_show(gather, monkeypatch, shape):
    """Documents longer and shorter than a piece, separators on the edges of pieces."""
    monkeypatch.setattr(npz, "_CHUNK", 64)
    source = np.random.RandomState(0)
    documents = [source.randint(1, 50_000, length) for length in [1, 15, 16, 17, 100, 31, 32, 33, *source.randint(1, 60, 80)]]
    if shape == "stream":
        array = np.concatenate([part for document in documents for part in (document, [0])])[:-1]
    else:
        array = np.array([np.pad(document, (0, 100 - len(document)), constant_values=0) for document in documents])
    options = {"separator": 0} if shape == "stream" else {"pad": 0}
    for data in (shard(input_ids=array.astype(np.uint16)), shard(True, input_ids=array), npy(array.astype(np.int32))):
        found, account = gather(npz, data, options=options)
        assert list(ids(found).values()) == [document.tolist() for document in documents]
        assert not account.skipped


def test_which_array(gather):
    data = shard(a=np.array([1]), input_ids=np.array([2]))
    assert ids(gather(npz, data)[0]) == {"f.x#1": [2]}
    assert ids(gather(npz, data, array="a")[0]) == {"f.x#1": [1]}
    with pytest.raises(DataError, match=r"f\.x has no array 'q'; it has a, input_ids\. Name one of them with --array\."):
        gather(npz, data, array="q")
    with pytest.raises(DataError, match="it has a, b"):
        gather(npz, shard(a=np.array([1]), b=np.array([1])))


# What is refused


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.array([1, -5, 3, 99, 7]), "1 of 5 not in 0 to 99, the worst -5 at 1"),
        (np.array([1, 100, 3, 99_999, -7]), "3 of 5 not in 0 to 99, the worst 99999 at 3"),
        (np.array([[1, 5], [3, 100]], dtype=np.uint16), "1 of 4 not in 0 to 99, the worst 100 at (1, 1)"),
        (np.array([1, 2**63 + 5], dtype=np.uint64), "1 of 2 not in 0 to 99, the worst 9223372036854775813 at 1"),
    ],
)
def test_impossible_ids_refuse_the_whole_file(gather, monkeypatch, array, told):
    monkeypatch.setattr(npz, "_CHUNK", 16)  # the bad id is not in the first piece
    documents, account = gather(npz, shard(input_ids=array), options={"vocab_size": 100})
    assert not documents
    assert account.examples == {"ids outside the vocabulary": [f"f.x: {told}"]}
    with pytest.raises(DataError) as caught:
        gather(npz, shard(input_ids=array), options={"vocab_size": 100}, strict=True)
    assert told in str(caught.value)


def test_the_last_id_of_the_vocabulary_is_possible(gather):
    assert ids(gather(npz, npy(np.array([0, 99])), options={"vocab_size": 100})[0]) == {"f.x#1": [0, 99]}


class Bomb:
    """What a pickle can do when it is loaded."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(np.array([1.0])), "array of another type than integers"),
        (npy(np.array([True])), "array of another type than integers"),
        (npy(np.array([Bomb()], dtype=object), allow_pickle=True), "array of another type than integers"),
        (npy(np.zeros(3, dtype=[("a", "i4")])), "array of another type than integers"),
        (npy(np.array(3)), "array that is neither 1-D nor 2-D"),
        (npy(np.zeros((1, 1, 1), int)), "array that is neither 1-D nor 2-D"),
        (npy(np.asfortranarray(np.arange(6).reshape(2, 3))), "array in Fortran order"),
        (npy(np.zeros(0, int)), "empty"),
        (npy(np.zeros((3, 0), int)), "empty"),
        (npy(np.zeros((0, 3), int)), "empty"),
        (promising((10**13,), b"1234"), "array whose header promises too much"),
        (promising((2, -2), b"1234"), "array whose header promises too much"),
        (promising((10**9,), b"1234"), "array whose header is not what the file holds"),
        (promising((1, 2**33), b"1234"), "array whose header is not what the file holds"),
        (promising((1,), b"12345678"), "array whose header is not what the file holds"),
        (npy(STREAM)[:-3], "array whose header is not what the file holds"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * 99, "array whose header promises too much"),
        (b"\x93NUMPY\x03\x00" + struct.pack("<I", 10), "array of an unknown .npy version"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"{'a':1(1(((", "array whose header cannot be read"),
        (b"\x93NUMPY", "broken array file"),
        (shard(input_ids=STREAM)[:-30], "broken array file"),
        (b"", "broken array file"),
        (b"hello", "broken array file"),
    ],
)
def test_what_is_no_array_of_ids(gather, data, reason):
    documents, account = gather(npz, data)
    assert not documents
    assert list(account.skipped) == [reason]
    if reason != "empty":
        with pytest.raises(DataError, match=r"^f\.x: "):
            gather(npz, data, strict=True)


def test_a_flipped_bit_is_seen_before_anything_is_given(gather):
    data = bytearray(shard(input_ids=np.arange(1000)))
    data[data.index(struct.pack("<q", 900))] ^= 1
    documents, account = gather(npz, bytes(data))
    assert not documents
    assert list(account.skipped) == ["broken array file"]


def test_a_member_may_be_larger_than_memory():
    """A kilobyte that unpacks to 40 MB is read in pieces; a lying size in the zip's directory does not help it."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("input_ids.npy", "w") as member:
        member.write(promising((10**7,)))
        for _ in range(40):
            member.write(bytes(10**6))
    tracemalloc.start()
    account = Account()
    documents = list(npz.read(io.BytesIO(output.getvalue()), "f", Source(path="x"), account, separator=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not documents
    assert account.skipped == {"empty": 1}
    assert peak < 12 * 2**20


def test_a_document_has_a_bound(gather, monkeypatch):
    monkeypatch.setattr(npz, "MAX_DOCUMENT_IDS", 50)
    for array in (np.ones(51, int), np.ones((1, 51), int)):
        documents, account = gather(npz, npy(array))
        assert not documents
        assert sum(account.skipped.values()) == 1
    assert len(gather(npz, npy(np.ones(50, int)))[0]) == 1
