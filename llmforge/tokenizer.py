"""llmforge tokenizer train --corpus PATH --vocab_size 16384 --output_dir DIR
llmforge tokenizer inspect --tokenizer DIR --corpus PATH

Train a byte-level BPE, and see how well one fits a corpus.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.allot import allot, tokenizer_sample, training_texts
from llmforge.data.card import vocabulary_line
from llmforge.data.reading import read_shards
from llmforge.errors import ConfigError
from llmforge.parsing import ForgeParser
from llmforge.runtime.commands import run_command
from llmforge.runtime.logs import console, logger, printable, set_up_logging
from llmforge.storage.files import new_folder
from llmforge.tokenization import FILES, TextTokenizer, fetch, train_tokenizer

_LONGEST = 10


@dataclass
class TokenizerCommandArguments:
    """Where the tokenizer goes and how the report comes."""

    _argument_group_name = "output"

    output_dir: str | None = field(default=None, metadata={"help": "Folder for the trained tokenizer."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object and nothing else."})


@dataclass
class TokenizerReport:
    """How a tokenizer fits a corpus.

    Attributes:
        vocab_size: Entries it has.
        requested_vocab_size: Entries that were asked for, None if unknown.
        bytes: UTF-8 bytes of the corpus.
        tokens: Tokens they became.
        bytes_per_token: Their ratio; larger is denser.
        longest_tokens: The longest entries, decoded.
        unused: Entries that the corpus never uses.
        unused_examples: Some of them, decoded.
        round_trip_failures: Documents that do not decode to themselves.
    """

    vocab_size: int
    requested_vocab_size: int | None
    bytes: int
    tokens: int
    bytes_per_token: float
    longest_tokens: list[str]
    unused: int
    unused_examples: list[str]
    round_trip_failures: int


def inspect_tokenizer(tokenizer: TextTokenizer, texts: Iterable[str]) -> TokenizerReport:
    """Encode and decode every text and count."""
    counts: Counter[int] = Counter()
    size = failures = 0
    texts, encoded = itertools.tee(texts)
    for text, ids in zip(texts, tokenizer.encode(encoded), strict=True):
        counts.update(ids.tolist())
        size += len(text.encode("utf-8", "surrogatepass"))
        failures += tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False) != text
    lengths = tokenizer.byte_lengths()
    by_length = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    unused = [index for index in range(len(lengths)) if lengths[index] and index not in counts]
    tokens = sum(counts.values())
    return TokenizerReport(
        vocab_size=len(tokenizer),
        requested_vocab_size=tokenizer.requested,
        bytes=size,
        tokens=tokens,
        bytes_per_token=round(size / max(tokens, 1), 4),
        longest_tokens=[tokenizer.backend.decode([index]) for index in by_length[:_LONGEST]],
        unused=len(unused),
        unused_examples=[tokenizer.backend.decode([index]) for index in unused[:_LONGEST]],
        round_trip_failures=failures,
    )


def train(data: DataArguments, args: TokenizerArguments, output_dir: Path | str) -> TextTokenizer:
    """Train a tokenizer on the training split of a corpus and save it.

    Raises:
        ConfigError: `output_dir` already holds something, or the arguments name an existing tokenizer.
        DataError: The corpus cannot be used.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir} is a file.", "Give a folder.")
    used = output_dir.exists() and any(output_dir.iterdir())
    if used and not {item.name for item in output_dir.glob("*")} <= set(FILES):
        raise ConfigError(f"--output_dir {output_dir} holds something that is no tokenizer.", "Give a new folder.")
    if used and not args.retrain_tokenizer:
        raise ConfigError(
            f"--output_dir {output_dir} holds a tokenizer.", "Give a new folder, or --retrain_tokenizer to replace it."
        )
    corpus = read_shards(data)
    for number, source in enumerate(corpus.sources):
        for line in corpus.account(number).lines():
            logger.info("%s: %s", printable(source.name), printable(line))
    chosen = tokenizer_sample(corpus, allot(corpus, data).splits["train"], data.tokenizer_sample)
    tokenizer = train_tokenizer(training_texts(corpus, chosen), args, progress=sys.stderr.isatty())
    with new_folder(output_dir, replace=True) as staging:
        tokenizer.save(staging)
    logger.info("tokenizer: %s, saved in %s", vocabulary_line(len(tokenizer), tokenizer.requested), output_dir)
    return tokenizer


def _show(report: TokenizerReport) -> None:
    from rich.table import Table

    table = Table(title="Tokenizer", show_header=False)
    rows = {
        "vocabulary": vocabulary_line(report.vocab_size, report.requested_vocab_size),
        "bytes a token": f"{report.bytes_per_token:.3f} ({report.bytes:,} bytes, {report.tokens:,} tokens)",
        "longest tokens": " ".join(repr(printable(token)) for token in report.longest_tokens),
        "unused entries": f"{report.unused:,} {' '.join(repr(printable(token)) for token in report.unused_examples)}",
        "round trip": "exact" if not report.round_trip_failures else f"{report.round_trip_failures:,} documents differ",
    }
    for name, value in rows.items():
        table.add_row(name, value.replace("[", r"\["))
    console().print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge tokenizer`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    usage = "llmforge tokenizer train|inspect …"
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: {usage}\n\n  train    a byte-level BPE on a corpus\n  inspect  how well a tokenizer fits a corpus\n\n"
            "`… train --help` lists the flags."
        )
        return
    action, *rest = argv
    if action not in ("train", "inspect"):
        raise ConfigError(f"llmforge tokenizer {action}: no such action.", f"Use `{usage}`.")
    parser = ForgeParser([DataArguments, TokenizerArguments, TokenizerCommandArguments], prog=f"llmforge tokenizer {action}")
    parsed = parser.parse(rest)
    data, args, output = parsed.get(DataArguments), parsed.get(TokenizerArguments), parsed.get(TokenizerCommandArguments)
    set_up_logging()
    if action == "train":
        if args.tokenizer is not None:
            raise ConfigError(
                f"--tokenizer {args.tokenizer} exists already.", "Leave it out to train one, or use `llmforge tokenizer inspect`."
            )
        if output.output_dir is None:
            raise ConfigError("--output_dir is missing.", "Give the folder for the tokenizer.")
        tokenizer = train(data, args, output.output_dir)
    elif args.tokenizer is None:
        raise ConfigError("--tokenizer is missing.", "Give the folder or hub id of the tokenizer to inspect.")
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = fetch(args.tokenizer, Path(folder))
    report = inspect_tokenizer(tokenizer, (text for _, text in read_shards(data).texts()))
    if output.json:
        print(json.dumps(asdict(report)))
    else:
        _show(report)


if __name__ == "__main__":
    sys.exit(run_command(main))
