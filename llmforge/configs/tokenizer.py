"""Which tokenizer to train or to reuse."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmforge.errors import ConfigError

#: Start context and end of a document, as in GPT-2, where it is bos and eos as well.
END_OF_TEXT = "<|endoftext|>"
#: Padding has a token of its own: were it the end of text, its labels would be masked with it.
PAD = "<|pad|>"
#: The byte alphabet and the two tokens above: the smallest vocabulary there can be.
SMALLEST_VOCAB = 256 + 2
#: Asked for where neither the user nor the preset says anything.
DEFAULT_VOCAB = 32_768


@dataclass
class TokenizerArguments:
    """A byte-level BPE to train, or an existing tokenizer to reuse.

    Raises:
        ConfigError: A vocabulary smaller than the byte alphabet, or an impossible special token.
    """

    _argument_group_name = "tokenizer"

    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of an existing byte-level tokenizer; nothing is trained then."},
    )
    vocab_size: int | None = field(
        default=None,
        metadata={"help": f"Vocabulary to ask for; by default the preset's reference vocabulary, else {DEFAULT_VOCAB}."},
    )
    min_frequency: int = field(default=2, metadata={"help": "A pair must occur this often to be merged."})
    special_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Your own tokens, matched whole in corpus and prompts: <PR_TITLE> <PR_BODY>."},
    )
    retrain_tokenizer: bool = field(
        default=False,
        metadata={"help": "Train a new tokenizer even where the prepared dataset has one."},
    )

    def __post_init__(self) -> None:
        if self.vocab_size is not None and self.vocab_size < SMALLEST_VOCAB + len(self.special_tokens):
            raise ConfigError(
                f"--vocab_size {self.vocab_size} is smaller than the byte alphabet and the special tokens.",
                f"Give at least {SMALLEST_VOCAB + len(self.special_tokens)}.",
            )
        if self.min_frequency < 1:
            raise ConfigError(f"--min_frequency {self.min_frequency} is too small.", "Give a whole number of at least 1.")
        for token in self.special_tokens:
            if not token or token in (END_OF_TEXT, PAD) or self.special_tokens.count(token) > 1:
                raise ConfigError(
                    f"--special_tokens {token!r} is empty, given twice or one of the library's own.",
                    f"{END_OF_TEXT} and {PAD} are always there; name each of your own once.",
                )
