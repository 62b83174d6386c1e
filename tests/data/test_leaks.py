"""What of the held-out splits also stands in training, against a count by hand."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from helpers import write_documents

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data import token_runs
from llmforge.data.leaks import check_folder, check_leaks
from llmforge.data.packing import pack
from llmforge.data.prepare import prepare_dataset
from llmforge.data.rows import to_dataset
from llmforge.errors import DataError


def rows_of(*sequences) -> Dataset:
    return Dataset.from_dict({"input_ids": [list(map(int, sequence)) for sequence in sequences]})


def by_hand(held_out, train, n: int) -> list[int]:
    """Covered tokens of each held-out sequence."""
    known = {tuple(item[place : place + min(n, len(item))]) for item in train for place in range(max(len(item) - n, 0) + 1)}
    # A short sequence is one run, so it is none of a longer one.
    counts = []
    for item in held_out:
        size = min(n, len(item))
        covered = set()
        for place in range(len(item) - size + 1):
            run = tuple(item[place : place + size])
            if run in known and (len(set(run)) > 1 or n == 1):
                covered |= set(range(place, place + size))
        counts.append(len(covered))
    return counts


def random_sequences(source: random.Random, count: int, others=()) -> list[list[int]]:
    made = []
    for _ in range(count):
        sequence = [source.randrange(40) for _ in range(source.choice([1, 2, 5, 30, 90]))]
        for _ in range(source.randrange(3) if others else 0):
            other = source.choice(others)
            start = source.randrange(len(other))
            place = source.randrange(len(sequence) + 1)
            sequence[place:place] = other[start : start + source.randrange(1, 40)]
        made.append(sequence)
    return made


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 13, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_count_is_that_by_hand(n, seed, monkeypatch):
    monkeypatch.setattr(token_runs, "_ROWS", 7)
    source = random.Random(seed)
    train = random_sequences(source, 40)
    held_out = [*random_sequences(source, 40, train), [9] * 60, train[0], [3, 3, 3], [40, 41]]
    expected = by_hand(held_out, train, n)
    (leak,) = check_leaks({"train": rows_of(*train), "validation": rows_of(*held_out)}, [n]).splits
    assert (leak.split, leak.n, leak.documents) == ("validation", n, len(held_out))
    assert leak.tokens == sum(map(len, held_out))
    assert leak.covered == sum(expected)
    assert leak.touched == sum(count > 0 for count in expected)
    assert leak.mostly == sum(2 * count > len(item) for count, item in zip(expected, held_out, strict=True))
    assert [document.covered for document in leak.worst] == sorted(filter(None, expected), reverse=True)[:5]
    assert 0 < leak.covered < leak.tokens


def test_nothing_is_found_where_nothing_is_shared():
    source = np.random.RandomState(0)
    report = check_leaks({name: rows_of(*source.randint(0, 9999, (20, 200))) for name in ("train", "validation", "test")})
    assert [(leak.split, leak.n) for leak in report.splits] == [
        ("validation", 50),
        ("validation", 13),
        ("test", 50),
        ("test", 13),
    ]
    assert all(leak.covered == leak.touched == 0 and leak.worst == [] for leak in report.splits)
    assert report.share == 0
    assert not report.leaks()
    assert report.train_tokens == 4000


def test_a_whole_document_in_training_is_found_and_named():
    source = np.random.RandomState(0)
    texts = [" ".join(f"word{number}" for number in source.randint(0, 999, 80)) for _ in range(10)]
    splits = {
        "train": texts[:8],
        "validation": ["clean " + texts[8], texts[3] + "\n", "", None],
        "test": [texts[9], texts[7][:200]],
    }
    report = check_leaks({name: Dataset.from_dict({"text": items}) for name, items in splits.items()})
    assert report.unit == "words"
    validation, test = (
        next(leak for leak in report.splits if (leak.split, leak.n) == (name, 50)) for name in splits if name != "train"
    )
    assert (validation.documents, validation.covered, validation.tokens, validation.mostly) == (2, 80, 161, 1)
    assert validation.share == report.share == pytest.approx(80 / 161)
    (worst,) = validation.worst
    assert (worst.name, worst.tokens, worst.covered) == ("validation, row 1", 80, 80)
    assert worst.excerpt == " ".join(texts[3].split()[:40])
    assert test.covered == 0  # a part of some 20 words is shorter than 50, and no document of training as a whole
    assert report.leaks()
    assert not report.leaks({50: 0.5, 13: 0.5})
    assert json.loads(json.dumps(report.as_json()))["splits"][0]["share"] == pytest.approx(80 / 161, abs=1e-6)
    assert report.table()[1] == ["validation", "50", "2", "161", "49.69%", "1 (50.0%)", "1 (50.0%)"]


def test_copies_with_scattered_edits_leak_by_short_runs_alone():
    source = np.random.RandomState(0)
    train = source.randint(0, 9999, (20, 400))
    edited = np.where(source.rand(20, 400) < 0.1, source.randint(0, 9999, (20, 400)), train)
    report = check_leaks({"train": rows_of(*train), "validation": rows_of(*edited)})
    shares = {leak.n: leak.share for leak in report.splits}
    assert shares[50] < 0.05 < 0.4 < shares[13]
    assert report.leaks()
    assert not report.leaks({50: 0.05})
    # Runs of another length go by the next shorter threshold; below all of them there is none.
    split = {"train": rows_of(*train), "validation": rows_of(*edited)}
    assert check_leaks(split, [20]).leaks()
    assert not check_leaks(split, [12]).leaks()


def test_text_without_spaces_is_taken_by_characters():
    text = "".join(chr(0x4E00 + number * 7 % 997) for number in range(300))
    report = check_leaks(
        {"train": Dataset.from_dict({"text": ["序" + text]}), "validation": Dataset.from_dict({"text": [text + "跋"]})}
    )
    assert report.splits[0].covered == 300


def test_runs_cross_no_segment_and_padding_is_none():
    """`abc` and `def` side by side in one row are no copy of the document `abcdef`."""
    parts = [np.arange(2, 42), np.arange(100, 140), np.arange(200, 240)]
    joined = np.concatenate(parts[:2])
    train = to_dataset(pack([array.astype(np.uint16) for array in parts], [0, 1, 2], 200, 0, 1))
    held_out = to_dataset(pack([joined.astype(np.uint16), parts[2][5:].astype(np.uint16)], [3, 4], 200, 0, 1))
    report = check_leaks({"train": train, "validation": held_out}, [50, 20], names={3: "joined.txt", 4: "part.txt"})
    by_length = {leak.n: leak for leak in report.splits}
    assert by_length[50].covered == 0
    assert by_length[50].tokens == 80 + 35 + 2  # each with its separator, none of the padding
    assert by_length[50].documents == 2
    assert by_length[20].covered == 80 + 1 + 35
    assert [document.name for document in by_length[20].worst] == ["joined.txt", "part.txt"]
    # Without the columns that say where segments are, the row is one sequence.
    plain = {
        name: split.remove_columns(["segment_lengths", "segment_targets", "segment_documents"])
        for name, split in {"train": train, "validation": held_out}.items()
    }
    assert check_leaks(plain, [20]).splits[0].documents == 1


def test_a_document_in_several_rows_is_one():
    ids = np.random.RandomState(0).randint(2, 900, 500).astype(np.uint16)
    train = to_dataset(pack([ids[:250]], [0], 64, 0, 1))
    held_out = to_dataset(pack([ids], [7], 64, 0, 1))
    leak = check_leaks({"train": train, "validation": held_out}, [13]).splits[0]
    assert (leak.documents, leak.tokens, leak.touched) == (1, 501, 1)
    assert 240 <= leak.covered <= 251


def test_rows_that_were_selected_are_the_ones_looked_at():
    source = np.random.RandomState(0)
    train = rows_of(*source.randint(0, 999, (10, 60)))
    validation = train.select([4, 2]).shuffle(seed=0)
    assert check_leaks({"train": train.select([2, 3]), "validation": validation}, [50]).splits[0].touched == 1
    assert check_leaks({"train": train, "validation": validation}, [50]).splits[0].touched == 2


def test_of_too_many_held_out_tokens_a_part_is_looked_for():
    source = np.random.RandomState(0)
    rows = source.randint(0, 999, (40, 60))
    report = check_leaks({"train": rows_of(*rows), "validation": rows_of(*rows)}, [50], most=600)
    assert report.sampled == 0.25
    assert report.splits[0].documents == 10
    assert report.share == 1.0


@pytest.mark.parametrize(
    ("names", "column", "message"),
    [
        (["train"], None, "has the splits train"),
        (["validation", "test"], None, "both"),
        (["train", "validation"], "content", "no column 'content'.*It has input_ids"),
    ],
)
def test_what_cannot_be_compared(names, column, message):
    with pytest.raises(DataError, match=message):
        check_leaks({name: rows_of([1, 2]) for name in names}, column=column)


def test_an_empty_split_is_no_leak():
    report = check_leaks({"train": rows_of([1, 2, 3]), "validation": rows_of([1, 2, 3]).select([])})
    assert (report.share, report.splits[0].tokens) == (0.0, 0)


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    corpus = write_documents(tmp_path / "corpus", 60)
    prepared = prepare_dataset(
        DataArguments(corpus=str(corpus), block_size=64, dedup="off"), TokenizerArguments(vocab_size=300), tmp_path / "prepared"
    )
    report = check_folder(prepared.path, [13])
    assert {leak.split for leak in report.splits} == {"validation", "test"}
    assert sum(leak.documents for leak in report.splits) + prepared.card["splits"]["train"]["documents"] == 60
    # The same rows on both sides, as a dataset that something else wrote.
    DatasetDict({"train": prepared.dataset["train"], "validation": prepared.dataset["train"]}).save_to_disk(
        str(tmp_path / "other")
    )
    report = check_folder(tmp_path / "other", [13])
    assert report.share > 0.99
    monkeypatch.undo()
    both = tmp_path / "leaking"
    (tmp_path / "prepared").rename(both)
    DatasetDict(
        {"train": Dataset.load_from_disk(str(both / "dataset" / "train"))}
        | {"validation": Dataset.load_from_disk(str(both / "dataset" / "train"))}
    ).save_to_disk(str(tmp_path / "swapped"))
    (both / "dataset").rename(tmp_path / "away")
    (tmp_path / "swapped").rename(both / "dataset")
    worst = check_folder(both, [13]).splits[0].worst[0]
    assert worst.name.endswith(".go")
    assert worst.excerpt.split()[0] in (corpus / worst.name).read_text(encoding="utf-8") + "<|endoftext|>package"
    for wrong in (corpus, tmp_path / "nothing"):
        with pytest.raises(DataError, match="holds no dataset"):
            check_folder(wrong)
