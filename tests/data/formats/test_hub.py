"""Datasets of the hub by stand-ins in folders, which `datasets` streams by the same call."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import hub
from llmforge.errors import DataError


def read(path, **settings):
    account = Account()
    return list(hub.documents(Source(path=str(path), format="hf", **settings), account)), account


def texts(documents):
    return {document.name: document.text for document in documents}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of data files with two splits, as a hub repository is."""
    folder = tmp_path_factory.mktemp("stand-in")
    (folder / "train.jsonl").write_text(
        '{"text": "a", "meta": {"repo": "r1"}, "messages": [{"role": "user", "content": "hi"}]}\n'
        '{"text": "", "meta": {"repo": "r2"}, "messages": [{"role": "user", "content": "ho"}]}\n'
        '{"text": "b\\u00e9", "meta": {"repo": "r2"}, "messages": []}\n'
    )
    (folder / "test.jsonl").write_text('{"text": "held out", "meta": {"repo": "r3"}, "messages": []}\n')
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The same by `save_to_disk`: a dataset, and a dictionary of them."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    folder = tmp_path_factory.mktemp("saved")
    table = Dataset.from_dict({"text": ["a", "b"], "raw": [b"\xff", b"\xfe"]})
    table.save_to_disk(str(folder / "one"))
    DatasetDict(train=table, test=table.select([1])).save_to_disk(str(folder / "several"))
    return folder


def test_a_streamed_dataset(folder):
    documents, account = read(folder)
    assert texts(documents) == {f"{folder}#1": "a", f"{folder}#3": "bé"}
    assert account.skipped == {"empty": 1}
    assert texts(read(folder, subset_split="test")[0]) == {f"{folder}#1": "held out"}


def test_a_part_of_a_dataset(folder):
    """The rest is not even asked for."""
    assert texts(read(folder, max_documents=1)[0]) == {f"{folder}#1": "a"}
    documents, account = read(folder, max_documents=2)
    assert (len(documents), account.skipped) == (1, {"empty": 1})


def test_fields_groups_and_chats(folder):
    documents, _ = read(folder, group_by="field.meta.repo")
    assert [document.group for document in documents] == ["r1", "r2"]
    assert [document.text for document in read(folder, text_field="meta.repo")[0]] == ["r1", "r2", "r2"]
    assert [document.text for document in read(folder, content="chat")[0]] == ["User: hi", "User: ho"]


def test_a_saved_dataset(saved):
    assert texts(read(saved / "one")[0]) == {f"{saved / 'one'}#1": "a", f"{saved / 'one'}#2": "b"}
    assert [document.text for document in read(saved / "several", subset_split="test")[0]] == ["b"]
    with pytest.raises(DataError, match=r"has no split 'dev'\. Give --subset_split one of train, test\."):
        read(saved / "several", subset_split="dev")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset_split": "dev"}, "Give another --subset_split."),
        ({"subset": "fr"}, "BuilderConfig 'fr' not found. Available: ['default']. Give --subset one of those."),
        ({"text_field": "body"}, "has no column 'body' (--text_field); it has"),
    ],
)
def test_what_is_not_there_is_told(folder, settings, message):
    with pytest.raises(DataError) as caught:
        read(folder, **settings)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_datasets(tmp_path):
    with pytest.raises(DataError, match="cannot be read: "):
        read(tmp_path / "absent")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read: "):
        read(tmp_path / "torn")


def test_a_script_is_never_run(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match="cannot be read: "):
        read(folder)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_breaks_in_the_middle(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text":\n')
    with pytest.raises(DataError, match="cannot be read after record 0: JSON parse error"):
        read(tmp_path)


def test_a_hub_id_is_streamed_by_its_full_name(monkeypatch):
    """What is asked of `datasets`: the stand-in for a network that tests do not have."""
    import datasets

    asked = []

    def load_dataset(*args, **settings):
        asked.append((args, settings))
        return datasets.IterableDataset.from_generator(lambda: iter([{"text": "a"}, {"text": "b"}]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents, _ = read("smollm-corpus")
    read("smollm-corpus", subset="fineweb-edu-dedup")
    read("someone/something", subset_split="validation")
    assert texts(documents) == {"smollm-corpus#1": "a", "smollm-corpus#2": "b"}
    assert asked == [
        (("HuggingFaceTB/smollm-corpus", "cosmopedia-v2"), {"split": "train", "streaming": True}),
        (("HuggingFaceTB/smollm-corpus", "fineweb-edu-dedup"), {"split": "train", "streaming": True}),
        (("someone/something", None), {"split": "validation", "streaming": True}),
    ]


def test_offline_is_one_line():
    with pytest.raises(
        DataError, match=r"--source path=smollm-corpus cannot be read: Couldn't reach .*Go online, or give a folder\."
    ):
        read("smollm-corpus")


def test_a_connection_that_is_lost_on_the_way(monkeypatch):
    import datasets

    def rows():
        yield {"text": "a"}
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **settings: datasets.IterableDataset.from_generator(rows))
    with pytest.raises(DataError, match=r"after record 1: reset by peer\. Go online and start again\."):
        read("someone/something")
