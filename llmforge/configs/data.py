"""Which text to read, how to split it and how long a row is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmforge.configs.source import Source, SourceSettings, parse_source
from llmforge.errors import ConfigError

#: Names of the three splits, in the order of `split_ratios`.
SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments(SourceSettings):
    """From a folder of text to packed rows.

    Raises:
        ConfigError: Ratios that are no shares of one, a row shorter than two tokens, settings of a source that
            do not fit one another.
    """

    _argument_group_name = "data"

    corpus: str | None = field(default=None, metadata={"help": "Folder or file of your own text."})
    source: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One of several sources, instead of --corpus: format=text,path=FOLDER,weight=2,… with any setting "
            "of a source; may be given again. In YAML a list of mappings."
        },
    )
    split_ratios: str = field(
        default="0.8,0.1,0.1",
        metadata={"help": "Shares of train, validation and test documents; a share of 0 leaves the split out."},
    )
    split_seed: int = field(default=0, metadata={"help": "Another seed sends documents to other splits."})
    dedup: Literal["drop", "together", "off"] = field(
        default="drop",
        metadata={
            "help": "Near-duplicates within a split: drop all but one, or keep them together. No training document is kept that "
            "is one of a held-out document. off looks for exact copies only, and keeps those of one split."
        },
    )
    # Measured by benchmarks/dedup.py: docs/concepts/duplicates.md has the table.
    dedup_threshold: float = field(
        default=0.35,
        metadata={"help": "Documents that share this much of their shingles (Jaccard) never stand in two splits."},
    )
    dedup_drop_threshold: float = field(
        default=0.9, metadata={"help": "Of documents that share this much within a split, drop all but one."}
    )
    dedup_shingle: int = field(default=2, metadata={"help": "Words in a shingle, the unit that near-duplicates share."})
    tokenizer_sample: int = field(
        default=200_000_000, metadata={"help": "Bytes of training text that a tokenizer is trained on at most, spread evenly."}
    )
    prepare_workers: int | None = field(
        default=None, metadata={"help": "Processes that read and clean; by default the cores there are."}
    )
    block_size: int = field(default=1024, metadata={"help": "Tokens in a row: the context that the model is trained on."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many rows only, evenly spread over the split; all if not given."}
    )
    dataset_dir: str | None = field(
        default=None, metadata={"help": "A dataset that `llmforge prepare` made; instead of --corpus."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ratios()
        if self.block_size < 2:
            raise ConfigError(f"--block_size {self.block_size} is too small.", "Give at least 2 tokens.")
        if self.max_eval_samples is not None and self.max_eval_samples < 1:
            raise ConfigError(f"--max_eval_samples {self.max_eval_samples} leaves nothing.", "Give at least 1, or leave it out.")
        for name in ("dedup_threshold", "dedup_drop_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"--{name} {getattr(self, name)} is no share.", "Give a number above 0, up to 1.")
        if self.dedup_drop_threshold < self.dedup_threshold:
            raise ConfigError(
                f"--dedup_drop_threshold {self.dedup_drop_threshold} is below --dedup_threshold {self.dedup_threshold}.",
                "What is dropped as a copy is one between splits too: lower the second as well.",
            )
        for name in ("dedup_shingle", "tokenizer_sample", "prepare_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} is too small.", "Give at least 1.")
        if self.corpus is not None and self.source:
            raise ConfigError("--corpus and --source are both given.", "Give one of them; --source path=… may be repeated.")
        self.sources()

    def sources(self) -> list[Source]:
        """The corpus as a list of sources; what a source leaves out is as the flags have it.

        Raises:
            ConfigError: A source that cannot be, or two with one name.
        """
        given = self.source if self.corpus is None else [{"path": self.corpus}]
        sources = [parse_source(item, self) for item in given]
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"--source: two are called {name!r}.", "Give them a name=… each.")
        return sources

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
