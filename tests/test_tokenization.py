"""The tokenizer: exact on any text, the same for us and for transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from llmforge.configs.tokenizer import END_OF_TEXT, PAD, TokenizerArguments
from llmforge.errors import ConfigError, DataError
from llmforge.tokenization import (
    TextTokenizer,
    fetch,
    from_pretrained_tokenizer,
    id_type,
    load,
    load_pretrained,
    train_tokenizer,
)

TEXTS = {
    "empty": "",
    "emoji": "ok 👍🏽 family 👨‍👩‍👧‍👦 flag 🇫🇷",
    "cjk": "你好，世界。こんにちは 안녕하세요",
    "tabs": "\tif x {\n\t\treturn\t nil\n\t}\n",
    "windows": "one\r\ntwo\r\n\r\n",
    "digits": "3.14159 0xDEADBEEF 1_000_000",
    "spaces": "   leading, trailing   ",
    "lone bytes": b"caf\xe9 \x80\xff".decode("utf-8", errors="replace"),
    "controls": "\0\x01\x1b[31m\u2028\ufeff\x7f",
    "marks": "e\u0301 is not é",
    "separator": f"a{END_OF_TEXT}b{PAD}c",
    "own token": "<PR_TITLE>fix return<PR_TITLE>",
    "code": "func main() (err error) { for range path { data, err := read() } }",
}


def one(tokenizer: TextTokenizer, text: str) -> list[int]:
    (ids,) = tokenizer.encode([text])
    return ids.tolist()


def hf(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


# Encoding


def test_the_first_two_ids_are_end_of_text_and_pad(text_tokenizer):
    assert (text_tokenizer.end_of_text, text_tokenizer.pad) == (0, 1)
    assert [text_tokenizer.backend.id_to_token(i) for i in range(3)] == ["<|endoftext|>", "<|pad|>", "<PR_TITLE>"]


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_comes_back_exactly(text_tokenizer, name):
    assert text_tokenizer.backend.decode(one(text_tokenizer, TEXTS[name]), skip_special_tokens=False) == TEXTS[name]


@pytest.mark.parametrize("special", [END_OF_TEXT, PAD])
def test_special_tokens_inside_a_document_are_plain_text(text_tokenizer, special):
    ids = one(text_tokenizer, f"before {special} after")
    assert not {0, 1} & set(ids)
    assert text_tokenizer.backend.decode(ids) == f"before {special} after"


def test_tokens_of_the_user_are_matched_whole(text_tokenizer):
    assert one(text_tokenizer, "<PR_TITLE>").count(2) == 1 == len(one(text_tokenizer, "<PR_TITLE>"))
    around = one(text_tokenizer, "x<PR_TITLE>return")
    assert around == [*one(text_tokenizer, "x"), 2, *one(text_tokenizer, "return")]


def test_many_texts_are_encoded_in_their_order(text_tokenizer):
    texts = [f"return {i} data" for i in range(1300)]  # more than two batches
    together = [ids.tolist() for ids in text_tokenizer.encode(iter(texts))]
    assert together == [one(text_tokenizer, text) for text in texts]


def test_encoding_nothing_gives_nothing(text_tokenizer):
    assert list(text_tokenizer.encode([])) == []


@pytest.mark.parametrize(("size", "expected"), [(300, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_ids_come_in_the_smallest_type(size, expected):
    assert id_type(size) is expected
    assert np.iinfo(expected).max >= size - 1


def test_encoded_ids_have_that_type(text_tokenizer):
    assert next(text_tokenizer.encode(["data"])).dtype == np.uint16


# As transformers sees it


@pytest.mark.parametrize("name", TEXTS)
def test_transformers_gives_the_same_ids(text_tokenizer, tokenizer_folder, name):
    theirs = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    assert hf(theirs, TEXTS[name]) == one(text_tokenizer, TEXTS[name])
    assert theirs.decode(hf(theirs, TEXTS[name])) == TEXTS[name]


def test_transformers_knows_the_special_tokens(tokenizer, text_tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, END_OF_TEXT, PAD)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert tokenizer.unk_token is None
    assert len(tokenizer) == len(text_tokenizer)
    assert tokenizer.get_vocab() == text_tokenizer.backend.get_vocab()


def test_what_transformers_saves_is_loaded_again(tokenizer, text_tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    again = load(tmp_path / "t")
    assert (again.end_of_text, again.pad, again.requested) == (0, 1, 400)
    assert all(one(again, text) == one(text_tokenizer, text) for text in TEXTS.values())


def test_loading_gives_what_was_saved(text_tokenizer, tokenizer_folder):
    again = load(tokenizer_folder)
    assert again.backend.to_str() == Tokenizer.from_str(text_tokenizer.backend.to_str()).to_str()
    assert (again.end_of_text, again.pad, again.requested, len(again)) == (0, 1, 400, len(text_tokenizer))


def test_the_one_behind_a_hugging_face_tokenizer_is_a_copy(tokenizer):
    ours = from_pretrained_tokenizer(tokenizer)
    assert (ours.end_of_text, ours.pad) == (0, 1)
    list(ours.encode([END_OF_TEXT]))  # switches special tokens off, in the copy only
    assert tokenizer(END_OF_TEXT)["input_ids"] == [0]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="fast"):
        from_pretrained_tokenizer(object())


# Bytes


@pytest.mark.parametrize("name", TEXTS)
def test_byte_lengths_add_up_to_the_text(text_tokenizer, name):
    lengths = text_tokenizer.byte_lengths()
    assert lengths[one(text_tokenizer, TEXTS[name])].sum() == len(TEXTS[name].encode())


def test_special_tokens_have_no_bytes_and_all_others_do(text_tokenizer):
    lengths = text_tokenizer.byte_lengths()
    assert lengths.shape == (len(text_tokenizer),)
    assert lengths.dtype == np.int64
    assert lengths[:3].tolist() == [0, 0, len("<PR_TITLE>")]
    assert (lengths[2:] > 0).all()
    assert (lengths == 1).sum() == 256


# Training


def test_the_vocabulary_asked_for_is_reached_where_the_text_has_enough_pairs():
    source = np.random.RandomState(0)
    text = " ".join("".join(source.choice(list("abcdefgh"), 6)) for _ in range(4000))
    tokenizer = train_tokenizer([text], TokenizerArguments(vocab_size=500))
    assert len(tokenizer) == 500 == tokenizer.requested


def test_a_poor_text_gives_fewer_and_both_numbers_are_kept(tmp_path):
    tokenizer = train_tokenizer(["abab abab"], TokenizerArguments(vocab_size=5000))
    assert 258 < len(tokenizer) < 270
    tokenizer.save(tmp_path / "t")
    assert load(tmp_path / "t").requested == 5000


def test_training_is_deterministic(corpus):
    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]
    first, second = (train_tokenizer(texts, TokenizerArguments(vocab_size=350)) for _ in range(2))
    assert first.backend.to_str() == second.backend.to_str()


def test_a_pair_below_the_minimum_frequency_is_not_merged():
    rare, often = (train_tokenizer(["xyz"] * count, TokenizerArguments(vocab_size=300, min_frequency=5)) for count in (4, 5))
    assert len(rare) == 258
    assert len(often) == 260


def test_no_merge_is_spent_on_the_tokens_of_the_user():
    text = "<PR_BODY>" * 50 + " ab"
    tokenizer = train_tokenizer([text], TokenizerArguments(vocab_size=400, special_tokens=["<PR_BODY>"]))
    assert not [token for token in tokenizer.backend.get_vocab() if "PR" in token and token != "<PR_BODY>"]


def test_a_token_that_contains_another_is_matched_first():
    tokenizer = train_tokenizer(["abc"], TokenizerArguments(vocab_size=300, special_tokens=["<A>", "<A>B"]))
    assert one(tokenizer, "<A>B") == [tokenizer.backend.token_to_id("<A>B")]


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts):
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts, TokenizerArguments(vocab_size=300))


# Other people's tokenizers


def foreign(folder: Path, backend: Tokenizer, **config) -> Path:
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(defaults | config))
    return folder


def byte_level(normalizer=None, splitter: str | None = None, add_prefix_space: bool = False) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    if normalizer:
        backend.normalizer = normalizer
    if splitter:
        split = pre_tokenizers.Split(Regex(splitter), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["naive caf\u00e9 x12345 don't stop  now\n"] * 20, trainer)
    return backend


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"normalizer": normalizers.NFC()}),
        pytest.param({"splitter": r"\p{N}{1,3}| ?\p{L}+|[^\s\p{L}\p{N}]+|\s+"}),
        pytest.param({"add_prefix_space": True}),
    ],
    ids=["like GPT-2", "like GPT-NeoX", "like Llama 3", "with a prefix space"],
)
def test_a_fetched_tokenizer_gives_the_same_ids_everywhere(tmp_path, settings):
    source = foreign(tmp_path / "source", byte_level(**settings))
    ours = fetch(str(source), tmp_path / "copy")
    text = "cafe\u0301 x12345 don't  stop"
    expected = AutoTokenizer.from_pretrained(str(source))(text, add_special_tokens=False)["input_ids"]
    assert one(ours, text) == one(load(tmp_path / "copy"), text) == expected
    assert hf(load_pretrained(tmp_path / "copy"), text) == expected


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"])
def test_a_fetched_tokenizer_gives_the_same_ids_whatever_class_it_names(tmp_path, name):
    backend = byte_level(splitter=r"\p{N}{1,3}| ?\p{L}+|[^\s\p{L}\p{N}]+|\s+")
    ours = fetch(str(foreign(tmp_path / "source", backend, tokenizer_class=name)), tmp_path / "copy")
    text = "cafe\u0301 x12345 don't  stop"
    assert hf(load_pretrained(tmp_path / "copy"), text) == one(ours, text)


def test_a_pointer_to_remote_code_is_not_copied(tmp_path):
    source = foreign(tmp_path / "source", byte_level(), auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    fetch(str(source), tmp_path / "copy")
    assert "auto_map" not in (tmp_path / "copy" / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("pad", [None, END_OF_TEXT, "<missing>", {"content": END_OF_TEXT}])
def test_a_fetched_tokenizer_gets_a_pad_of_its_own(tmp_path, pad):
    backend = byte_level()
    ours = fetch(str(foreign(tmp_path / "source", backend, pad_token=pad)), tmp_path / "copy")
    assert ours.pad == backend.get_vocab_size() == len(ours) - 1
    assert ours.pad != ours.end_of_text
    theirs = load_pretrained(tmp_path / "copy")
    assert (theirs.pad_token_id, theirs.eos_token_id, len(theirs)) == (ours.pad, ours.end_of_text, len(ours))


def test_a_pad_that_is_there_is_kept(tmp_path, text_tokenizer, tokenizer_folder):
    ours = fetch(str(tokenizer_folder), tmp_path / "copy")
    assert (ours.pad, len(ours), ours.requested) == (1, len(text_tokenizer), 400)


def test_fetching_again_changes_no_byte(tmp_path, tokenizer_folder):
    fetch(str(tokenizer_folder), tmp_path / "a")
    fetch(str(tmp_path / "a"), tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def word_piece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece({END_OF_TEXT: 0, "[UNK]": 1, "data": 2, "##s": 3}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return backend


def unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram([(END_OF_TEXT, 0.0), ("data", -1.0)], unk_id=0))
    backend.decoder = decoders.Metaspace()
    return backend


def byte_fallback() -> Tokenizer:
    backend = Tokenizer(models.BPE({END_OF_TEXT: 0, "<0x41>": 1, "a": 2}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return backend


@pytest.mark.parametrize("make", [word_piece, unigram, byte_fallback])
def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path, make):
    with pytest.raises(ConfigError, match="byte-level"):
        fetch(str(foreign(tmp_path / "source", make())), tmp_path / "copy")


# Errors


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json"):
        fetch(str(tmp_path), tmp_path / "copy")


def test_a_name_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--tokenizer no-such/tokenizer is neither a folder nor a reachable hub id"):
        fetch("no-such/tokenizer", tmp_path / "copy")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_torn_folder_is_refused(tokenizer_folder, tmp_path, name, content):
    folder = shutil.copytree(tokenizer_folder, tmp_path / "t")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ConfigError, match="tokenizer"):
        load(folder)


def test_a_config_that_is_no_mapping_is_refused(tokenizer_folder, tmp_path):
    folder = shutil.copytree(tokenizer_folder, tmp_path / "t")
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="tokenizer"):
        load(folder)


@pytest.mark.parametrize("eos", [None, "<missing>"])
def test_a_tokenizer_without_end_of_text_is_refused(tokenizer_folder, tmp_path, eos):
    folder = shutil.copytree(tokenizer_folder, tmp_path / "t")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    with pytest.raises(ConfigError, match="no end-of-text token"):
        load(folder)


def test_documents_are_whole_whatever_the_tokenizer_was_last_used_for(tokenizer_folder, tmp_path):
    """transformers saves the truncation and padding of the last call."""
    folder = shutil.copytree(tokenizer_folder, tmp_path / "t")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    texts = ["one two three four five six seven eight nine", "a"]
    given, whole = (list(load(one).encode(texts)) for one in (folder, tokenizer_folder))
    assert [ids.tolist() for ids in given] == [ids.tolist() for ids in whole]
