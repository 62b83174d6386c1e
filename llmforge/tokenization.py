"""Byte-level BPE: training, loading, saving, and how many bytes each token stands for.

Training and encoding use the `tokenizers` library alone, so that preparing data does not
import transformers; what is saved is read by `AutoTokenizer`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from llmforge.configs.tokenizer import DEFAULT_VOCAB, END_OF_TEXT, PAD, TokenizerArguments
from llmforge.errors import ConfigError, DataError, StorageError
from llmforge.fast_merges import LEAST_BYTES, SEPARATOR, fast_merges, has_new_letters, read_texts, without_surrogates
from llmforge.storage.records import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
#: The files of a saved tokenizer.
FILES = (TOKENIZER_FILE, CONFIG_FILE)
#: Characters encoded at a time; an encoding takes some hundred bytes a token, so this bounds its memory.
_BATCH_CHARACTERS = 4_000_000


@dataclass
class TextTokenizer:
    """A `tokenizers.Tokenizer` with what packing and counting need to know about it.

    Attributes:
        backend: The tokenizer itself.
        end_of_text: Id that starts a document and follows its last token.
        pad: Id that fills rows up.
        requested: The vocabulary that was asked for when it was trained, None if it was not trained here.
    """

    backend: Tokenizer
    end_of_text: int
    pad: int
    requested: int | None = None

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size())

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer type that holds every id."""
        return np.dtype(id_type(max(self.backend.get_vocab(with_added_tokens=True).values(), default=0) + 1))

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of each text, without a separator.

        Special tokens that stand in a text are encoded as the plain text they are; a user's
        own tokens are matched. Ids come in the smallest integer type.
        """
        self.backend.encode_special_tokens = True
        dtype = self.dtype
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield from self._encode_batch(batch, dtype)
                batch, size = [], 0
        yield from self._encode_batch(batch, dtype)

    def _encode_batch(self, batch: list[str], dtype: Any) -> Iterator[np.ndarray]:
        for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, dtype=dtype)

    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, 0 for special tokens; int64, ``(vocabulary,)``.

        Raises:
            ConfigError: The tokenizer is not byte-level; its tokens are no strings of bytes.
        """
        description = json.loads(self.backend.to_str())
        if "ByteLevel" not in json.dumps(description.get("decoder") or {}):
            raise ConfigError("The tokenizer is not a byte-level one.", "Use one like GPT-2's or GPT-NeoX's, or train your own.")
        lengths = np.zeros(len(self), dtype=np.int64)
        for token, index in self.backend.get_vocab(with_added_tokens=True).items():
            lengths[index] = len(token)  # one character of the byte alphabet a byte
        for added in description["added_tokens"]:
            lengths[added["id"]] = 0 if added["special"] else len(added["content"].encode())
        return lengths

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, for `AutoTokenizer` and for `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / TOKENIZER_FILE))
        # Written anew, so that nothing of a foreign config (auto_map, say) is carried along. transformers
        # builds GPT2Tokenizer's parts itself, whatever tokenizer.json says: only where they are the same.
        gpt2 = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "errors": "replace"}
        config = {
            **(gpt2 if self._is_like_gpt2() else {"tokenizer_class": "PreTrainedTokenizerFast"}),
            "backend": "tokenizers",
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "bos_token": self.backend.id_to_token(self.end_of_text),
            "eos_token": self.backend.id_to_token(self.end_of_text),
            "pad_token": self.backend.id_to_token(self.pad),
            "requested_vocab_size": self.requested,
        }
        write_json(folder / CONFIG_FILE, config)

    def _is_like_gpt2(self) -> bool:
        description = json.loads(self.backend.to_str())
        splitter = description["pre_tokenizer"] or {}
        return (
            description["normalizer"] is None
            and (splitter.get("type"), splitter.get("add_prefix_space"), splitter.get("use_regex")) == ("ByteLevel", False, True)
            and description["model"]["type"] == "BPE"
            and not description["model"].get("ignore_merges")
        )


def id_type(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def train_tokenizer(texts: Iterable[str], args: TokenizerArguments, progress: bool = False) -> TextTokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenization.

    Ids 0 and 1 are ``<|endoftext|>`` and ``<|pad|>``, then come the user's own tokens, the 256
    bytes and the merges. Fewer entries than asked for come out where the text has too few pairs. The text is taken
    once and lies in a temporary file meanwhile; gigatoken finds the merges of a large one where they are the same.

    Raises:
        DataError: There is no text.
        StorageError: The text does not fit in the folder for temporary files.
    """
    specials = [END_OF_TEXT, PAD, *args.special_tokens]
    requested = args.vocab_size or DEFAULT_VOCAB
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts"
        try:
            same_words = _write_pieces(path, texts, args.special_tokens)
        except OSError as error:
            raise StorageError(
                f"Cannot write the tokenizer's sample to {path}: {error.strerror or error}.", "Set TMPDIR to a folder with room."
            ) from error
        if not path.stat().st_size:
            raise DataError("There is no text to train a tokenizer on.", "Give a corpus with text in it.")
        merges = None
        if same_words and path.stat().st_size >= LEAST_BYTES:
            merges = fast_merges(path, requested - len(specials) - 256, args.min_frequency)
        trained = {left + right for left, right in merges or ()}
        if merges is None or trained & set(specials):
            backend = _train_slowly(path, specials, requested, args.min_frequency, progress)
        else:
            tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
            backend = _byte_level(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
            backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    # All of them are marked special so far; special ones are left alone inside documents, the user's are matched.
    description = json.loads(backend.to_str())
    for added in description["added_tokens"]:
        added["special"] = added["content"] in (END_OF_TEXT, PAD)
    backend = Tokenizer.from_str(json.dumps(description))
    return TextTokenizer(backend, end_of_text=0, pad=1, requested=requested)


def _write_pieces(path: Path, texts: Iterable[str], own: Sequence[str]) -> bool:
    """Write the texts for training; whether gigatoken is known to cut them into the same words."""
    # The user's tokens are matched before BPE sees the text: no merges are spent on them.
    splitter = re.compile("|".join(re.escape(token) for token in sorted(own, key=len, reverse=True))) if own else None
    same_words = True
    with open(path, "wb") as file:
        for text in texts:
            text = without_surrogates(text)
            same_words = same_words and not has_new_letters(text)
            for piece in splitter.split(text) if splitter else (text,) if text else ():
                file.write(piece.encode() + SEPARATOR)
    return same_words


def _train_slowly(path: Path, specials: list[str], requested: int, min_frequency: int, progress: bool) -> Tokenizer:
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=requested,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(read_texts(path), trainer)
    return backend


def _byte_level(model: models.Model) -> Tokenizer:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def load(folder: Path) -> TextTokenizer:
    """Load a tokenizer that `TextTokenizer.save` or `save_pretrained` wrote.

    Raises:
        ConfigError: No ``tokenizer.json``, or no end-of-text token in it.
    """
    path = folder / TOKENIZER_FILE
    try:
        backend = Tokenizer.from_file(str(path))
        # As transformers saved them, if they were set: documents are encoded whole.
        backend.no_truncation()
        backend.no_padding()
        config = dict(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(
            f"{folder} holds no usable tokenizer: {error}.", "Give a folder with tokenizer.json and tokenizer_config.json."
        ) from error
    end = _content(config.get("eos_token"))
    if end is None or backend.token_to_id(end) is None:
        raise ConfigError(f"The tokenizer in {folder} has no end-of-text token.", "Use one whose eos_token is set.")
    pad = _content(config.get("pad_token"))
    if pad is None or pad == end or backend.token_to_id(pad) is None:
        pad = PAD
        backend.add_special_tokens([AddedToken(PAD, special=True)])
    ids = backend.get_vocab(with_added_tokens=True)
    return TextTokenizer(backend, ids[end], ids[pad], config.get("requested_vocab_size"))


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def fetch(name: str, target: Path) -> TextTokenizer:
    """Copy the tokenizer `name`, a folder or a hub id, into `target`, with a padding token of its own.

    Raises:
        ConfigError: It cannot be found or is not byte-level.
    """
    source = Path(name)
    if not (source / TOKENIZER_FILE).is_file():
        source = target
        _download(name, target)
    tokenizer = load(source)
    tokenizer.byte_lengths()
    tokenizer.save(target)
    return tokenizer


def _download(name: str, target: Path) -> None:
    from transformers import AutoTokenizer

    if Path(name).exists():
        raise ConfigError(f"--tokenizer {name} holds no {TOKENIZER_FILE}.", "Give a folder that save_pretrained wrote.")
    try:
        AutoTokenizer.from_pretrained(name, trust_remote_code=False).save_pretrained(target)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--tokenizer {name} is neither a folder nor a reachable hub id: {reason}.", "Check the name or go online."
        ) from error


def load_pretrained(folder: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder` as transformers knows it (imports transformers)."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def from_pretrained_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
    """The `TextTokenizer` behind a fast Hugging Face tokenizer, for counting bytes.

    Raises:
        ConfigError: It is not a fast tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"{type(tokenizer).__name__} is not a fast tokenizer.", "Use one that has tokenizer.json.")
    # A copy: the one in use keeps its settings.
    return TextTokenizer(Tokenizer.from_str(backend.to_str()), tokenizer.eos_token_id, tokenizer.pad_token_id)
