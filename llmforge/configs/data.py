"""Which text to read, how to split it and how long a row is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmforge.errors import ConfigError

#: Names of the three splits, in the order of `split_ratios`.
SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments:
    """From a folder of text to packed rows.

    Raises:
        ConfigError: Ratios that are no shares of one, a row shorter than two tokens,
            a segment or suffix that does not fit the format.
    """

    _argument_group_name = "data"

    corpus: str | None = field(default=None, metadata={"help": "Folder or file of your own text."})
    format: Literal["auto", "code", "text", "jsonl"] = field(
        default="auto",
        metadata={
            "help": "What the files are: auto goes by suffix; code is every known source suffix; "
            "text is .txt and .md; jsonl is one JSON object a line."
        },
    )
    suffixes: list[str] = field(
        default_factory=list, metadata={"help": "Take only files that end so, e.g. .go .mod, whatever the format's own are."}
    )
    segment: Literal["file", "paragraph"] = field(
        default="file",
        metadata={"help": "What one document of a text file is: the file, or each block between blank lines."},
    )
    text_field: str = field(default="text", metadata={"help": "The field of a JSONL object that holds the text."})
    split_ratios: str = field(
        default="0.8,0.1,0.1",
        metadata={"help": "Shares of train, validation and test documents; a share of 0 leaves the split out."},
    )
    split_seed: int = field(default=0, metadata={"help": "Another seed sends documents to other splits."})
    block_size: int = field(default=1024, metadata={"help": "Tokens in a row: the context that the model is trained on."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many rows only, evenly spread over the split; all if not given."}
    )
    dataset_dir: str | None = field(
        default=None, metadata={"help": "A dataset that `llmforge prepare` made; instead of --corpus."}
    )

    def __post_init__(self) -> None:
        self.suffixes = [suffix if suffix.startswith(".") else f".{suffix}" for suffix in self.suffixes]
        self.ratios()
        if self.block_size < 2:
            raise ConfigError(f"--block_size {self.block_size} is too small.", "Give at least 2 tokens.")
        if self.max_eval_samples is not None and self.max_eval_samples < 1:
            raise ConfigError(f"--max_eval_samples {self.max_eval_samples} leaves nothing.", "Give at least 1, or leave it out.")
        if self.segment == "paragraph" and self.format in ("code", "jsonl"):
            raise ConfigError(
                f"--segment paragraph does not go with --format {self.format}.", "It cuts text files: use --format text."
            )

    def ratios(self) -> tuple[float, float, float]:
        """`split_ratios` as three shares that add up to 1; a missing last share is 0."""
        remedy = "Give up to three shares that add up to 1, such as 0.8,0.1,0.1 or 0.9,0.1,0."
        try:
            shares = [float(share) for share in str(self.split_ratios).split(",")]
        except ValueError:
            raise ConfigError(f"--split_ratios {self.split_ratios!r} are no numbers.", remedy) from None
        if not (1 <= len(shares) <= 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6 and shares[0] > 0):  # NaN too
            raise ConfigError(f"--split_ratios {self.split_ratios!r} cannot be used.", remedy)
        train, validation, test = shares + [0.0] * (3 - len(shares))
        return train, validation, test
