"""Packing: every token once, every label right, no more rows than need be."""

from __future__ import annotations

import numpy as np
import pytest

from llmforge.data.packing import Batch, best_fit, pack, pack_split, take

SEPARATOR, PAD = 0, 1


def ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)


def first_fit_decreasing(lengths, capacity) -> int:
    """How many bins the textbook method takes."""
    bins: list[int] = []
    for length in sorted(lengths, reverse=True):
        for number, used in enumerate(bins):
            if used + length <= capacity:
                bins[number] += length
                break
        else:
            bins.append(length)
    return len(bins)


def segments(rows):
    """(document, ids, target) of each segment, row by row; what follows a row's segments must be padding."""
    for row, lengths, targets, numbers in zip(
        rows.input_ids, rows.segment_lengths, rows.segment_targets, rows.segment_documents, strict=True
    ):
        start = 0
        for length, target, number in zip(lengths, targets, numbers, strict=True):
            yield number, row[start : start + length].tolist(), target
            start += length
        assert (row[start:] == PAD).all()


def pieces_of(rows, number):
    """The pieces of one document, in the order in which they were cut: the first, then by where they follow."""
    found = [(piece, target) for document, piece, target in segments(rows) if document == number]
    return sorted(found, key=lambda pair: pair[0][0] != SEPARATOR)


def random_documents(seed: int, block_size: int, count: int = 80):
    """Documents with unequal first ids everywhere, some several rows long, some empty."""
    source = np.random.RandomState(seed)
    return [source.randint(2, 60_000, source.randint(0, 4 * block_size)).astype(np.uint16) for _ in range(count)]


def test_the_example_of_the_docstring():
    rows = pack([ids("abc"), ids("defghij"), ids("k")], [0, 1, 2], 6, ord("^"), ord("_"))
    assert ["".join(map(chr, row)) for row in rows.input_ids] == ["^defgh", "^abcij", "^k____"]
    assert rows.segment_lengths == [[6], [4, 2], [2]]
    assert [[chr(target) for target in targets] for targets in rows.segment_targets] == [["i"], ["^", "^"], ["^"]]
    assert rows.segment_documents == [[1], [0, 1], [2]]


# best_fit


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", [1, 2, 7, 64, 1024])
def test_best_fit_places_each_item_once_in_few_bins(seed, capacity):
    source = np.random.RandomState(seed)
    lengths = source.randint(1, capacity + 1, source.randint(1, 300)).tolist()
    bins = best_fit(lengths, capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in members) <= capacity for members in bins)
    assert len(bins) <= first_fit_decreasing(lengths, capacity)
    assert bins == best_fit(lengths, capacity)


def test_best_fit_takes_the_fullest_bin_that_has_room():
    # 6 and 5 open a bin each; 3 fits both and goes to the fuller one, 4 then just fits the other.
    assert best_fit([5, 3, 6, 4], 9) == [[2, 1], [0, 3]]


def test_best_fit_of_equal_items_keeps_their_order():
    assert best_fit([2, 2, 2, 2, 2], 4) == [[0, 1], [2, 3], [4]]
    assert best_fit([1, 3] * 50, 3) == [
        *([item] for item in range(1, 100, 2)),
        *([i, i + 2, i + 4] for i in range(0, 96, 6)),
        [96, 98],
    ]


def test_best_fit_of_nothing():
    assert best_fit([], 8) == []


def best_fit_by_item(lengths, capacity) -> list[list[int]]:
    """One item after the other: the tightest bin that fits, of several the one that got its room last."""
    bins: list[list[int]] = []
    free: dict[int, list[int]] = {}
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        room = min((room for room, stack in free.items() if stack and room >= lengths[item]), default=capacity)
        if free.get(room):
            number = free[room].pop()
        else:
            number = len(bins)
            bins.append([])
        bins[number].append(item)
        if room > lengths[item]:
            free.setdefault(room - lengths[item], []).append(number)
    return bins


@pytest.mark.parametrize("seed", range(25))
def test_items_of_one_size_together_go_where_they_go_one_by_one(seed):
    """Rows of a corpus stay the ones they were: a run that is resumed sees the same."""
    source = np.random.RandomState(seed)
    capacity = int(source.choice([1, 3, 10, 16, 100]))
    few = source.randint(1, capacity + 1, source.randint(1, 6))
    lengths = source.choice(few, source.randint(0, 150)).tolist()
    assert best_fit(lengths, capacity) == best_fit_by_item(lengths, capacity)


# pack


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block_size", [2, 9, 32])
def test_every_token_is_packed_once_with_the_id_that_truly_follows(seed, block_size):
    documents = random_documents(seed, block_size)
    numbers = list(range(100, 100 + len(documents)))
    rows = pack(documents, numbers, block_size, SEPARATOR, PAD)
    expected = []
    for number, document in zip(numbers, documents, strict=True):
        whole = [SEPARATOR, *document.tolist(), SEPARATOR]
        for start in range(0, len(whole) - 1, block_size):
            end = min(start + block_size, len(whole) - 1)
            expected.append((number, whole[start:end], whole[end]))
    assert sorted(segments(rows)) == sorted(expected)


@pytest.mark.parametrize("seed", range(5))
def test_only_a_document_longer_than_a_row_is_cut(seed):
    documents = random_documents(seed, 32)
    rows = pack(documents, range(len(documents)), 32, SEPARATOR, PAD)
    for number, document in enumerate(documents):
        assert len(pieces_of(rows, number)) == -(-(len(document) + 1) // 32)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, [([0], 0)]),
        (1, [([0, 10], 0)]),
        (6, [([0, 10, 11, 12, 13, 14, 15], 0)]),
        (7, [([0, 10, 11, 12, 13, 14, 15, 16], 0)]),  # just a row with its separator
        (8, [([0, 10, 11, 12, 13, 14, 15, 16], 17), ([17], 0)]),
        (9, [([0, 10, 11, 12, 13, 14, 15, 16], 17), ([17, 18], 0)]),
        (15, [([0, 10, 11, 12, 13, 14, 15, 16], 17), ([17, 18, 19, 20, 21, 22, 23, 24], 0)]),
        (16, [([0, 10, 11, 12, 13, 14, 15, 16], 17), ([17, 18, 19, 20, 21, 22, 23, 24], 25), ([25], 0)]),
    ],
)
def test_documents_around_the_length_of_a_row(tokens, expected):
    rows = pack([np.arange(10, 10 + tokens, dtype=np.uint16)], [0], 8, SEPARATOR, PAD)
    assert pieces_of(rows, 0) == expected


def test_the_separator_is_the_target_at_the_very_end_of_a_row():
    rows = pack([np.arange(10, 13, dtype=np.uint16), np.arange(20, 23, dtype=np.uint16)], [0, 1], 8, SEPARATOR, PAD)
    assert rows.input_ids.tolist() == [[0, 10, 11, 12, 0, 20, 21, 22]]
    assert rows.segment_targets == [[0, 0]]


def test_packing_is_deterministic_and_leaves_its_input_alone():
    documents = random_documents(3, 16)
    copies = [document.copy() for document in documents]
    first, second = (pack(documents, range(len(documents)), 16, SEPARATOR, PAD) for _ in range(2))
    assert np.array_equal(first.input_ids, second.input_ids)
    assert first.segment_documents == second.segment_documents
    assert all(np.array_equal(document, copy) for document, copy in zip(documents, copies, strict=True))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ids_keep_their_type(dtype):
    rows = pack([np.array([65_000, 3], dtype=dtype)], [0], 4, SEPARATOR, PAD)
    assert rows.input_ids.dtype == dtype
    assert rows.input_ids.tolist() == [[0, 65_000, 3, PAD]]


def test_no_documents_make_no_rows():
    assert pack([], [], 8, SEPARATOR, PAD).input_ids.shape == (0, 8)


def test_rows_are_well_filled():
    """Documents much shorter than a row leave next to nothing empty."""
    source = np.random.RandomState(0)
    documents = [np.full(length, 5, np.uint16) for length in source.randint(1, 200, 500)]
    rows = pack(documents, range(500), 256, SEPARATOR, PAD)
    assert sum(map(sum, rows.segment_lengths)) / rows.input_ids.size > 0.98


# pack_split


def as_batch(documents, first: int = 0) -> Batch:
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    return Batch(np.concatenate([np.zeros(0, np.uint16), *documents]), lengths, np.arange(first, first + len(documents)))


def windows(batches, window_tokens: int, block_size: int = 32):
    """Rows of every window, as plain lists."""
    return [
        list(zip(rows.input_ids.tolist(), rows.segment_lengths, rows.segment_targets, rows.segment_documents, strict=True))
        for rows in pack_split(batches, block_size, SEPARATOR, PAD, window_tokens)
    ]


def test_a_corpus_within_a_window_is_packed_as_one():
    documents = random_documents(0, 32, 200)
    rows = pack(documents, range(200), 32, SEPARATOR, PAD)
    (only,) = windows([as_batch(documents)], 10**6)
    assert only == list(
        zip(rows.input_ids.tolist(), rows.segment_lengths, rows.segment_targets, rows.segment_documents, strict=True)
    )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_rows_do_not_depend_on_how_documents_are_batched(size):
    documents = random_documents(1, 32, 200)
    batches = [as_batch(documents[start : start + size], start) for start in range(0, 200, size)]
    assert windows(batches, 2000) == windows([as_batch(documents)], 2000)


def test_windows_are_full_and_hold_whole_documents():
    documents = random_documents(2, 32, 200)
    made = windows([as_batch(documents)], 2000)
    packed = [sum(sum(lengths) for _, lengths, _, _ in rows) for rows in made]
    assert len(made) > 5
    assert max(packed) <= 2000
    assert min(packed[:-1]) > 2000 - 4 * 32  # the next document would not have fitted
    numbers = [{number for row in rows for number in row[3]} for rows in made]
    assert [number for some in numbers for number in sorted(some)] == list(range(200))


def test_a_document_longer_than_a_window_stays_whole():
    documents = [np.arange(2, 10, dtype=np.uint16), np.arange(2, 500, dtype=np.uint16), np.arange(2, 10, dtype=np.uint16)]
    made = windows([as_batch(documents)], 100)
    assert [{number for row in rows for number in row[3]} for rows in made] == [{0}, {1}, {2}]
    assert sum(sum(lengths) for rows in made for _, lengths, _, _ in rows) == 8 + 498 + 8 + 3


def test_long_rows_come_in_parts(monkeypatch):
    """A window's rows are made some at a time; they are the same rows."""
    documents = random_documents(3, 32, 300)
    (whole,) = windows([as_batch(documents)], 10**6)
    monkeypatch.setattr("llmforge.data.packing._BLOCK_TOKENS", 32 * 5)
    parts = windows([as_batch(documents)], 10**6)
    assert max(map(len, parts)) == 5
    assert [row for part in parts for row in part] == whole


def test_empty_batches_and_no_batches():
    assert windows([], 100) == windows([as_batch([])], 100) == []
    documents = random_documents(4, 32, 10)
    assert windows([as_batch([]), as_batch(documents), as_batch([])], 10**6) == windows([as_batch(documents)], 10**6)


@pytest.mark.parametrize("mean", [15, 700])
def test_rows_of_a_window_are_full(mean):
    """999 of 1,000 positions, with paragraphs as with files."""
    source = np.random.RandomState(0)
    lengths = source.exponential(mean, 600_000 // mean).astype(np.int64)
    batch = Batch(np.full(lengths.sum(), 5, np.uint16), lengths, np.arange(len(lengths)))
    rows = list(pack_split([batch], 512, SEPARATOR, PAD))
    assert sum(part.tokens for part in rows) == lengths.sum() + len(lengths)
    assert sum(part.tokens for part in rows) / sum(part.input_ids.size for part in rows) > 0.999


def test_memory_is_bounded_by_the_window():
    """Documents that come one after the other are let go of, one window at a time."""
    import tracemalloc

    def batches():
        for start in range(0, 6000, 100):
            yield as_batch([np.full(1000, 5, np.uint16)] * 100, start)

    tracemalloc.start()
    for _ in pack_split(batches(), 256, SEPARATOR, PAD, window_tokens=400_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20 * 20  # the ids alone are 12 MB, and what gathers a window's rows is 8 bytes a token


# take


@pytest.mark.parametrize("chosen", [[], [0], [2, 2, 2], [0, 1, 2, 4], [4, 3, 1], [1, 2, 3, 3, 4, 0]])
def test_take_gathers_documents_in_order_and_as_often_as_asked(chosen):
    documents = [ids("abc"), ids(""), ids("de"), ids("f"), ids("ghij")]
    batch = Batch(np.concatenate(documents), np.array([3, 0, 2, 1, 4]), np.arange(10, 15))
    taken = take(batch, np.array(chosen, dtype=np.int64))
    assert taken.ids.tolist() == [token for place in chosen for token in documents[place].tolist()]
    assert taken.lengths.tolist() == [len(documents[place]) for place in chosen]
    assert taken.numbers.tolist() == [10 + place for place in chosen]
    assert taken.ids.dtype == np.uint16
