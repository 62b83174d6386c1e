"""Corpus to dataset: nothing lost, nothing done twice, nothing torn."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import write_documents

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.card import vocabulary_line
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import load_prepared
from llmforge.errors import ConfigError, DataError, StorageError
from llmforge.fast_tokens import Encoder
from llmforge.storage.records import read_json
from llmforge.tokenization import TextTokenizer, load, load_pretrained

BLOCK = 32


def data(corpus: Path, **changes) -> DataArguments:
    # Documents of few different words are similar to one another.
    settings = {"corpus": str(corpus), "block_size": BLOCK, "split_ratios": "0.6,0.2,0.2", "dedup": "off"}
    return DataArguments(**settings | changes)


def tokenizer(**changes) -> TokenizerArguments:
    return TokenizerArguments(**{"vocab_size": 320} | changes)


@pytest.fixture
def prepared(corpus):
    return prepare_dataset(data(corpus), tokenizer())


@pytest.fixture
def own_corpus(tmp_path) -> Path:
    """A corpus that a test may change."""
    return write_documents(tmp_path / "own", seed=5)


@pytest.fixture
def no_encoding(monkeypatch):
    """From now on nothing can be tokenized."""

    def switch_on():
        def refuse(self, texts):
            raise AssertionError("something was tokenized")

        monkeypatch.setattr(TextTokenizer, "encode", refuse)
        monkeypatch.setattr(Encoder, "encode_batch", refuse)

    return switch_on


def documents_of(prepared) -> list[dict]:
    return [json.loads(line) for line in (prepared.path / "documents.jsonl").read_text(encoding="utf-8").split("\n") if line]


def texts_of(prepared, split: str) -> dict[int, str]:
    """The documents of a split, put together again from its rows alone."""
    pieces: dict[int, list[list[int]]] = {}
    rows = prepared.rows(split)
    for number in range(len(rows)):
        start = 0
        for length, document in zip(rows[number]["segment_lengths"], rows[number]["segment_documents"], strict=True):
            pieces.setdefault(int(document), []).append(rows[number]["input_ids"][start : start + length].tolist())
            start += length
    texts = {}
    for document, found in pieces.items():
        # A piece of a longer document fills its row; the first one starts with the separator, the last one is shorter.
        found.sort(key=lambda piece: (piece[0] != prepared.tokenizer.bos_token_id, -len(piece)))
        ids = [index for piece in found for index in piece]
        assert ids[0] == prepared.tokenizer.bos_token_id
        texts[document] = prepared.tokenizer.decode(ids[1:])
    return texts


# What comes out


def test_the_folder_holds_what_the_design_says(prepared):
    assert sorted(path.name for path in prepared.path.iterdir()) == [
        "data_card.json",
        "data_card.md",
        "dataset",
        "document_lengths.png",
        "documents.jsonl",
        "tokenizer",
    ]
    assert set(prepared.dataset) == {"train", "validation", "test"}
    assert prepared.dataset["train"].column_names == ["input_ids", "segment_lengths", "segment_targets", "segment_documents"]
    assert prepared.block_size == BLOCK == len(prepared.dataset["train"][0]["input_ids"])
    assert prepared.dataset["train"].features["input_ids"].feature.dtype == "uint16"


def test_every_token_of_every_document_is_packed(prepared):
    lines = documents_of(prepared)
    for split in prepared.dataset:
        own = [line for line in lines if line["split"] == split]
        packed = sum(sum(lengths) for lengths in prepared.dataset[split]["segment_lengths"])
        assert packed == sum(line["tokens"] for line in own) + len(own)  # a separator each


def test_rows_decode_to_the_documents_of_their_split(tmp_path):
    # Rows long enough that every document is in one piece, or at most two: the order of pieces is known then.
    corpus = write_documents(tmp_path / "c", seed=9)
    prepared = prepare_dataset(data(corpus, block_size=512), tokenizer())
    names = {line["document"]: line["name"] for line in documents_of(prepared)}
    seen = []
    for split in prepared.dataset:
        for document, text in texts_of(prepared, split).items():
            assert text == (corpus / names[document]).read_text(encoding="utf-8")
            seen.append(document)
    assert sorted(seen) == sorted(names) == list(range(60))


def test_a_split_never_cuts_a_document(prepared):
    found = {
        split: {number for row in prepared.dataset[split]["segment_documents"] for number in row} for split in prepared.dataset
    }
    assert found["train"].isdisjoint(found["validation"] | found["test"])
    assert found["validation"].isdisjoint(found["test"])
    assert found == {split: {line["document"] for line in documents_of(prepared) if line["split"] == split} for split in found}


def test_a_split_without_a_share_is_absent(corpus):
    prepared = prepare_dataset(data(corpus, split_ratios="0.8,0.2"), tokenizer())
    assert set(prepared.dataset) == {"train", "validation"}
    assert prepared.rows("test") is None
    assert len(prepared.rows("validation", most=2)) == 2


def test_the_card_agrees_with_an_independent_count(prepared, corpus):
    card = prepared.card
    sizes = {path.name: path.stat().st_size for path in corpus.iterdir()}
    assert (card["corpus"]["files"], card["corpus"]["bytes"]) == (60, sum(sizes.values()))
    by_split = {split: [line for line in documents_of(prepared) if line["split"] == split] for split in card["splits"]}
    assert sum(map(len, by_split.values())) == 60
    encode = load(prepared.path / "tokenizer").encode
    for split, figures in card["splits"].items():
        names = [line["name"] for line in by_split[split]]
        counts = [len(ids) for ids in encode((corpus / name).read_text(encoding="utf-8") for name in names)]
        rows = prepared.dataset[split]["input_ids"]
        padding = sum(row.count(prepared.tokenizer.pad_token_id) for row in rows)
        assert figures == {
            "documents": len(names),
            "bytes": sum(sizes[name] for name in names),
            "tokens": sum(counts),
            "bytes_per_token": pytest.approx(sum(sizes[name] for name in names) / sum(counts), abs=1e-3),
            "rows": len(rows),
            "density": pytest.approx(1 - padding / (len(rows) * BLOCK), abs=1e-4),
            "longest_document": max(counts),
            "length_percentiles": {str(share): int(np.percentile(counts, share)) for share in (5, 25, 50, 75, 95, 99)},
        }
        assert f"| {split} | {len(names)} |" in (prepared.path / "data_card.md").read_text(encoding="utf-8")


def test_a_vocabulary_that_falls_short_is_explained(corpus):
    prepared = prepare_dataset(data(corpus), tokenizer(vocab_size=30_000))
    reached = prepared.card["tokenizer"]["vocab_size"]
    assert reached == len(prepared.tokenizer) < 30_000 == prepared.card["tokenizer"]["requested_vocab_size"]
    card = (prepared.path / "data_card.md").read_text(encoding="utf-8")
    assert f"{reached:,} entries of the 30,000 asked for: the training text has no more pairs" in card


def test_a_vocabulary_that_is_reached_needs_no_explanation():
    assert vocabulary_line(1024, 1024) == vocabulary_line(1024, None) == "1,024 entries"


def test_the_tokenizer_sees_the_training_split_only(tmp_path):
    corpus = write_documents(tmp_path / "c")
    before = prepare_dataset(data(corpus), tokenizer())
    held_out = next(line["name"] for line in documents_of(before) if line["split"] == "test")
    (corpus / held_out).unlink()
    after = prepare_dataset(data(corpus), tokenizer())
    assert after.fingerprint != before.fingerprint
    assert after.card["tokenizer"]["hash"] == before.card["tokenizer"]["hash"]


def test_tokens_of_the_user_survive(tmp_path):
    corpus = tmp_path / "c"
    corpus.mkdir()
    for number in range(60):
        (corpus / f"{number}.txt").write_text(f"<PR_TITLE>title {number}<|endoftext|><PR_BODY>body", encoding="utf-8")
    prepared = prepare_dataset(data(corpus), tokenizer(special_tokens=["<PR_TITLE>", "<PR_BODY>"]))
    ids = prepared.tokenizer.convert_tokens_to_ids(["<PR_TITLE>", "<PR_BODY>"])
    assert ids == [2, 3]
    used = [index for row in prepared.dataset["train"]["input_ids"] for index in row]
    documents = prepared.card["splits"]["train"]["documents"]
    assert used.count(2) == used.count(3) == documents
    assert used.count(prepared.tokenizer.eos_token_id) == documents  # those inside a document are plain text


def test_what_was_left_out_is_in_the_card(own_corpus):
    (own_corpus / "binary.go").write_bytes(b"\0\1")
    (own_corpus / "latin.go").write_bytes(b"caf\xe9")
    prepared = prepare_dataset(data(own_corpus), tokenizer())
    assert prepared.card["corpus"]["skipped"] == {"binary": 1}
    assert prepared.card["corpus"]["changed"] == {"undecodable bytes replaced": 1}
    card = (prepared.path / "data_card.md").read_text(encoding="utf-8")
    assert "- 1 binary (e.g. binary.go)" in card
    assert "- undecodable bytes replaced in 1 document (e.g. latin.go)" in card


def test_a_lone_surrogate_in_a_json_string_is_no_crash(tmp_path):
    lines = [json.dumps({"text": f"document {i} of the corpus"}) for i in range(80)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, r'{"text": "half a pair \ud800 here"}']), encoding="utf-8")
    assert prepare_dataset(data(tmp_path / "a.jsonl"), tokenizer()).card["corpus"]["files"] == 1


def test_a_file_name_that_is_no_utf8_is_no_crash(own_corpus):
    with open(os.fsencode(own_corpus) + b"/caf\xe9.go", "w") as file:
        file.write("package cafe")
    assert prepare_dataset(data(own_corpus), tokenizer()).card["corpus"]["files"] == 61


# The cache


def test_the_same_content_is_tokenized_once(own_cache, corpus, no_encoding):
    first = prepare_dataset(data(corpus), tokenizer())
    no_encoding()
    again = prepare_dataset(data(corpus), tokenizer())
    assert (first.reused, again.reused) == (False, True)
    assert again.path == first.path == own_cache / "datasets" / first.fingerprint


def test_the_same_content_elsewhere_is_found(own_cache, corpus, tmp_path, no_encoding):
    first = prepare_dataset(data(corpus), tokenizer())
    shutil.copytree(corpus, tmp_path / "copy")
    no_encoding()
    assert prepare_dataset(data(tmp_path / "copy"), tokenizer()).path == first.path


def test_mode_25_one_byte_is_another_dataset(own_corpus):
    first = prepare_dataset(data(own_corpus), tokenizer())
    path = own_corpus / "file000.go"
    path.write_bytes(path.read_bytes() + b" ")
    second = prepare_dataset(data(own_corpus), tokenizer())
    assert second.fingerprint != first.fingerprint
    assert second.path != first.path
    assert not second.reused


@pytest.mark.parametrize(
    "changes",
    [{"block_size": 33}, {"split_ratios": "0.5,0.25,0.25"}, {"split_seed": 1}, {"vocab_size": 300}, {"special_tokens": ["<X>"]}],
    ids=lambda changes: next(iter(changes)),
)
def test_mode_25_other_settings_are_another_dataset(prepared, corpus, changes):
    ours = {name: value for name, value in changes.items() if name in ("vocab_size", "special_tokens")}
    other = prepare_dataset(data(corpus, **{n: v for n, v in changes.items() if n not in ours}), tokenizer(**ours))
    assert other.fingerprint != prepared.fingerprint


def test_the_tokenizer_alone_is_kept_when_only_rows_change(own_cache, corpus, monkeypatch):
    prepare_dataset(data(corpus), tokenizer())
    monkeypatch.setattr("llmforge.data.prepare.train_tokenizer", lambda *args, **kwargs: pytest.fail("trained again"))
    assert prepare_dataset(data(corpus, block_size=16), tokenizer()).block_size == 16


def test_a_tokenizer_of_the_user_is_used_as_it_is(corpus, tokenizer_folder, text_tokenizer):
    prepared = prepare_dataset(data(corpus), TokenizerArguments(tokenizer=str(tokenizer_folder)))
    assert load(prepared.path / "tokenizer").backend.get_vocab() == text_tokenizer.backend.get_vocab()
    assert prepared.card["tokenizer"]["trained_here"] is False


def test_a_changed_end_of_text_is_another_tokenizer(corpus, tokenizer_folder, tmp_path):
    folder = shutil.copytree(tokenizer_folder, tmp_path / "t")
    first = prepare_dataset(data(corpus), TokenizerArguments(tokenizer=str(folder)))
    config = read_json(folder / "tokenizer_config.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<PR_TITLE>", "bos_token": "<PR_TITLE>"}))
    second = prepare_dataset(data(corpus), TokenizerArguments(tokenizer=str(folder)))
    assert second.fingerprint != first.fingerprint
    assert second.card["tokenizer"]["end_of_text_id"] == 2


@pytest.mark.parametrize(
    "stage", ["allot", "TokenizedCorpus", "write_dataset_dict", "LengthsPicture.draw", "markdown", "json_text"]
)
def test_mode_25_a_failure_in_the_middle_leaves_nothing(own_cache, corpus, monkeypatch, stage):
    with monkeypatch.context() as broken:
        broken.setattr(f"llmforge.data.prepare.{stage}", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_dataset(data(corpus), tokenizer())
    assert list(own_cache.glob("datasets/*")) == []
    assert not prepare_dataset(data(corpus), tokenizer()).reused


def test_mode_25_a_full_disk_is_a_storage_error_and_leaves_nothing(own_cache, corpus, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmforge.data.prepare.shutil.copytree", full)
    with pytest.raises(StorageError, match="No space left on device"):
        prepare_dataset(data(corpus), tokenizer())
    assert list((own_cache / "datasets").iterdir()) == []


# A folder of the user's choice


def test_an_output_folder_is_found_again(own_cache, corpus, tmp_path, no_encoding):
    out = tmp_path / "out"
    first = prepare_dataset(data(corpus), tokenizer(), out)
    assert first.path == out
    no_encoding()
    again = prepare_dataset(data(corpus), tokenizer(), out)
    assert again.reused
    assert again.fingerprint == first.fingerprint
    assert not (own_cache / "datasets").exists()


def test_a_missing_parent_of_the_output_folder_is_made(corpus, tmp_path):
    assert prepare_dataset(data(corpus), tokenizer(), tmp_path / "a" / "b").path.is_dir()


def test_an_empty_output_folder_is_filled(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    assert prepare_dataset(data(corpus), tokenizer(), tmp_path / "out").rows("train")


def test_the_tokenizer_is_frozen_when_documents_are_added(own_corpus, tmp_path):
    out = tmp_path / "out"
    first = prepare_dataset(data(own_corpus), tokenizer(), out)
    write_documents(own_corpus / "more", seed=11)
    second = prepare_dataset(data(own_corpus), tokenizer(), out)
    assert second.card["tokenizer"]["hash"] == first.card["tokenizer"]["hash"]
    assert second.card["tokenizer"]["requested_vocab_size"] == 320
    assert sum(split["documents"] for split in second.card["splits"].values()) == 120
    assert second.fingerprint != first.fingerprint
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []


def test_adding_documents_moves_none_to_another_split(own_corpus, tmp_path):
    first = {line["name"]: line["split"] for line in documents_of(prepare_dataset(data(own_corpus), tokenizer(), tmp_path / "o"))}
    write_documents(own_corpus / "more", seed=11)
    second = {
        line["name"]: line["split"] for line in documents_of(prepare_dataset(data(own_corpus), tokenizer(), tmp_path / "o"))
    }
    assert first.items() <= second.items()


def test_a_new_tokenizer_is_trained_when_asked_for(own_corpus, tmp_path):
    first = prepare_dataset(data(own_corpus), tokenizer(), tmp_path / "out")
    write_documents(own_corpus / "more", seed=11)
    second = prepare_dataset(data(own_corpus), tokenizer(retrain_tokenizer=True), tmp_path / "out")
    assert second.card["tokenizer"]["hash"] != first.card["tokenizer"]["hash"]
    third = prepare_dataset(data(own_corpus), tokenizer(retrain_tokenizer=True, vocab_size=300), tmp_path / "out")
    assert third.card["tokenizer"]["vocab_size"] == 300


@pytest.mark.parametrize("changes", [{"vocab_size": 300}, {"special_tokens": ["<NEW>"]}])
def test_another_tokenizer_than_the_frozen_one_is_refused(corpus, tmp_path, changes):
    first = prepare_dataset(data(corpus), tokenizer(), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"frozen.*--retrain_tokenizer"):
        prepare_dataset(data(corpus), tokenizer(**changes), tmp_path / "out")
    assert load_prepared(tmp_path / "out").fingerprint == first.fingerprint


def test_settings_left_out_keep_the_frozen_tokenizer(corpus, tmp_path):
    first = prepare_dataset(data(corpus), tokenizer(special_tokens=["<X>"]), tmp_path / "out")
    again = prepare_dataset(data(corpus), TokenizerArguments(), tmp_path / "out")
    assert again.reused
    assert again.fingerprint == first.fingerprint


def test_a_folder_that_holds_something_else_is_refused_untouched(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"--output_dir .*mine holds something"):
        prepare_dataset(data(corpus), tokenizer(retrain_tokenizer=True), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_file_as_the_output_folder_is_refused_untouched(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="--output_dir"):
        prepare_dataset(data(corpus), tokenizer(), tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "years of work"


def test_the_current_folder_can_be_the_output_folder(corpus, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert (prepare_dataset(data(corpus), tokenizer(), ".").path / "data_card.json").is_file()


def test_a_failure_leaves_the_dataset_that_was_there(own_corpus, tmp_path, monkeypatch):
    first = prepare_dataset(data(own_corpus), tokenizer(), tmp_path / "out")
    write_documents(own_corpus / "more", seed=11)
    monkeypatch.setattr("llmforge.data.prepare.markdown", lambda card: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_dataset(data(own_corpus), tokenizer(), tmp_path / "out")
    kept = load_prepared(tmp_path / "out")
    assert kept.card == first.card
    assert len(kept.rows("train")) == len(first.rows("train"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]


# Loading


def test_a_prepared_folder_is_loaded_without_a_corpus(prepared, no_encoding):
    no_encoding()
    loaded = prepare_dataset(DataArguments(dataset_dir=str(prepared.path)))
    assert loaded.card == prepared.card
    assert loaded.dataset["train"].to_list() == prepared.dataset["train"].to_list()


@pytest.mark.parametrize("content", [None, {}, {"data_card.json": "{}"}], ids=["missing", "empty", "card only"])
def test_a_folder_that_is_no_dataset_is_refused(tmp_path, content):
    folder = tmp_path / "d"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(DataError, match=r"--dataset_dir .*d is no prepared dataset.*llmforge prepare"):
        load_prepared(folder)


@pytest.mark.parametrize("change", [{"row_format": 0}, {"row_format": None}])
def test_another_row_format_is_refused(prepared, tmp_path, change):
    folder = shutil.copytree(prepared.path, tmp_path / "d")
    (folder / "data_card.json").write_text(json.dumps(prepared.card | change))
    with pytest.raises(DataError, match="row format"):
        load_prepared(folder)


def test_a_torn_card_is_refused(prepared, tmp_path):
    folder = shutil.copytree(prepared.path, tmp_path / "d")
    (folder / "data_card.json").write_text((prepared.path / "data_card.json").read_text()[:50])
    with pytest.raises(DataError, match=r"data_card\.json"):
        load_prepared(folder)


# What cannot be prepared


def test_too_few_documents_for_the_splits_are_told(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"short {number}")
    with pytest.raises(DataError, match=r"split got none of the 2 documents"):
        prepare_dataset(data(tmp_path), tokenizer())


def test_two_books_are_enough(tmp_path):
    """By way of sections, which the card tells."""
    for number in range(2):
        paragraphs = [f"Paragraph {i} of book {number}. " + "It goes on and on. " * 20 for i in range(500)]
        (tmp_path / f"{number}.txt").write_text("\n\n".join(paragraphs))
    prepared = prepare_dataset(data(tmp_path, split_ratios="0.8,0.1,0.1"), tokenizer())
    assert prepared.card["sections"] >= 1024
    assert all(split["documents"] >= 1 for split in prepared.card["splits"].values())


# Templates


def test_the_templates_of_questions_and_chats_are_the_tokenizer_s(tmp_path):
    """What a text was rendered by in training renders a prompt with transformers, also of a tokenizer that was saved again."""
    asked = [{"question": f"What is {number}?", "answer": f"It is {number + 1}, less {number % 7}."} for number in range(60)]
    told = [
        {"messages": [{"role": "user", "content": one["question"]}, {"role": "assistant", "content": one["answer"]}]}
        for one in asked
    ]
    for name, records in (("qa", asked), ("chat", told)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    own = "Q {{ question }}{% if not add_generation_prompt %} A {{ answer }}{% endif %}"
    (tmp_path / "own.jinja").write_text(own)
    sources = [
        f"format=jsonl,content=qa,path={tmp_path}/qa.jsonl",
        f"format=jsonl,content=chat,path={tmp_path}/chat.jsonl",
        f"format=jsonl,content=qa,path={tmp_path}/qa.jsonl,template={tmp_path}/own.jinja,name=own",
    ]
    made = prepare_dataset(DataArguments(source=sources, block_size=64, dedup="off"), tokenizer())
    made.tokenizer.save_pretrained(tmp_path / "again")
    again = load_pretrained(tmp_path / "again")
    texts = {text for split in made.card["splits"] for text in texts_of(made, split).values()}
    asks = {"conversation": told[3]["messages"], "tokenize": False}
    assert again.apply_chat_template(chat_template="default", **asks) in texts
    for name in ("qa", "qa-2"):
        assert again.apply_chat_template(chat_template=name, context="", **asked[3], **asks) in texts
    start = again.apply_chat_template(chat_template="qa-2", add_generation_prompt=True, **asked[3], **asks)
    assert start == "Q What is 3?"


def test_another_template_is_another_dataset_though_it_renders_the_same(tmp_path, own_cache):
    (tmp_path / "qa.jsonl").write_text("".join(f'{{"question": "q{n}", "answer": "{n * n}"}}\n' for n in range(60)))

    def made(template: str):
        source = DataArguments(corpus=str(tmp_path / "qa.jsonl"), content="qa", template=template, block_size=64, dedup="off")
        return prepare_dataset(source, tokenizer())

    first, second = made("{{ question }} {{ answer }}"), made("{{question}} {{ answer }}")
    assert first.path != second.path
    assert second.tokenizer.chat_template == {"qa": "{{question}} {{ answer }}"}
