"""How much of validation and test also stands in training, in any dataset.

The check on the rest of the data engine, and it shares nothing with it: no MinHash, no documents' hashes,
only the tokens that are there. A held-out token is *covered* if it lies in a run of `n` tokens that
training has as well. Runs of 50 tokens hardly ever are in two texts that were written apart (Lee et al.,
Deduplicating Training Data Makes Language Models Better, 2022, take 50 too); of 13, as in GPT-3's
contamination analysis (Brown et al., 2020), idioms and imports of source code are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.data.token_runs import Part, find_runs, read_parts
from llmforge.errors import DataError
from llmforge.storage.records import read_json_lines
from llmforge.tokenization import FILES, load

if TYPE_CHECKING:
    from datasets import Dataset

LENGTHS = (50, 13)
#: By the length of the runs, the share of covered held-out tokens from which a dataset counts as leaking. Long runs show
#: what was copied whole; the short ones show copies with scattered edits, of which no long run is left.
#: docs/concepts/duplicates.md says what clean and leaking datasets have.
LEAKING = {50: 0.05, 13: 0.2}
_TRAIN = "train"
_WORST = 5
_EXCERPT = 40


@dataclass
class LeakedDocument:
    """A held-out document that training has, in whole or in part.

    Attributes:
        name: Its file, or the row it is.
        tokens: Its length.
        covered: How many of its tokens training has.
        excerpt: The beginning of the longest run of those.
    """

    name: str
    tokens: int
    covered: int
    excerpt: str


@dataclass
class SplitLeak:
    """What one held-out split shares with training, by runs of one length.

    Attributes:
        split: Its name.
        n: Tokens in a run.
        documents: Documents, or rows, looked at.
        tokens: Tokens of those.
        covered: Tokens in runs that training has too.
        touched: Documents with any.
        mostly: Documents with more than half.
        worst: Those with the most covered tokens.
    """

    split: str
    n: int
    documents: int = 0
    tokens: int = 0
    covered: int = 0
    touched: int = 0
    mostly: int = 0
    worst: list[LeakedDocument] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the split's tokens that training has."""
        return self.covered / max(self.tokens, 1)


@dataclass
class LeakReport:
    """What `check_leaks` found.

    Attributes:
        unit: What is counted: tokens, or words where the dataset is text.
        train_tokens: Tokens of training that were looked through, which is all.
        sampled: Share of the held-out rows that were looked for.
        splits: One entry for each held-out split and length.
    """

    unit: str
    train_tokens: int
    sampled: float
    splits: list[SplitLeak]

    @property
    def share(self) -> float:
        """The largest share of a split's tokens that training has, by the longest runs."""
        longest = max((leak.n for leak in self.splits), default=0)
        return max((leak.share for leak in self.splits if leak.n == longest), default=0.0)

    def leaks(self, thresholds: Mapping[int, float] = LEAKING) -> bool:
        """Whether a split's share is above that of `thresholds` for runs of its length, or else of the next shorter."""
        return self.first_leak(thresholds) is not None

    def first_leak(self, thresholds: Mapping[int, float] = LEAKING) -> SplitLeak | None:
        """The first split, and length of runs, of which `leaks` speaks."""
        for leak in self.splits:
            known = [n for n in thresholds if n <= leak.n]
            if known and leak.share > thresholds[max(known)]:
                return leak
        return None

    def as_json(self) -> dict[str, Any]:
        """The report in plain values."""
        value = asdict(self)
        for entry, leak in zip(value["splits"], self.splits, strict=True):
            entry["share"] = round(leak.share, 6)
        return value | {"share": round(self.share, 6)}

    def table(self) -> list[list[str]]:
        """Heading and rows for people."""
        rows = [["split", "run", "documents", self.unit, "covered", "documents with any", "mostly covered"]]
        for leak in self.splits:
            shares = [f"{count:,} ({count / max(leak.documents, 1):.1%})" for count in (leak.touched, leak.mostly)]
            rows.append([leak.split, str(leak.n), f"{leak.documents:,}", f"{leak.tokens:,}", f"{leak.share:.2%}", *shares])
        return rows


def check_folder(
    path: Path | str, lengths: Sequence[int] = LENGTHS, column: str | None = None, most: int = 20_000_000
) -> LeakReport:
    """`check_leaks` of a prepared dataset's folder, or of any that ``DatasetDict.save_to_disk`` wrote.

    Raises:
        DataError: There is no such dataset in `path`, or it has no split to compare.
    """
    from datasets import DatasetDict

    path = Path(path).expanduser()
    inner = path / "dataset" if (path / "dataset").is_dir() else path
    try:
        splits = DatasetDict.load_from_disk(str(inner))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no dataset: {error}.", "Give a folder that `llmforge prepare` or datasets wrote."
        ) from None
    names = {line["document"]: str(line["name"]) for line in read_json_lines(path / "documents.jsonl")}
    decode = None
    if all((path / "tokenizer" / name).is_file() for name in FILES):
        decode = load(path / "tokenizer").backend.decode
    return check_leaks(splits, lengths, column, names, decode, most)


def check_leaks(
    splits: Mapping[str, Dataset],
    lengths: Sequence[int] = LENGTHS,
    column: str | None = None,
    names: Mapping[int, str] | None = None,
    decode: Callable[[list[int]], str] | None = None,
    most: int = 20_000_000,
) -> LeakReport:
    """Look for the held-out splits' runs of tokens in training. A leak raises nothing: see `LeakReport.leaks`.

    The runs of validation and test are held in memory (some 20 bytes a token), training streams past them. A
    sequence shorter than a run is looked for as a whole among those of its length.

    Args:
        splits: ``train`` and any others, which are held out. Packed rows of ours, whose segments no run crosses;
            or rows with ``input_ids``; or rows of text, taken word by word.
        lengths: Tokens in a run, several to be looked at in one pass.
        column: What to read; by default ``input_ids``, else ``text``.
        names: What documents are called, by number; else they are rows.
        decode: Token ids to text, for excerpts.
        most: Held-out tokens that are held; of more, rows are left out, evenly spread.

    Raises:
        DataError: No ``train`` split, no other one, or no column to read.
    """
    held_out = [name for name in splits if name != _TRAIN]
    if _TRAIN not in splits or not held_out:
        raise DataError(
            f"The dataset has the splits {', '.join(splits) or 'none'}.", "A leak is between train and another one: give both."
        )
    column = column or next((name for name in ("input_ids", "text") if name in splits[_TRAIN].column_names), "input_ids")
    for name, split in splits.items():
        if column not in split.column_names:
            raise DataError(f"The {name} split has no column {column!r}.", f"It has {', '.join(split.column_names)}.")
    total = sum(len(part.tokens) for name in held_out for part in read_parts(splits[name], column, decode))
    step = max(1, -(-total // most))
    chosen = {name: splits[name].select(range(0, len(splits[name]), step)) if step > 1 else splits[name] for name in held_out}
    wanted = {
        n: _Wanted([find_runs(part, n)[0] for split in chosen.values() for part in read_parts(split, column, decode)])
        for n in lengths
    }
    trained = 0
    for part in read_parts(splits[_TRAIN], column, decode):
        trained += len(part.tokens)
        for n, runs in wanted.items():
            runs.mark(find_runs(part, n)[0])
    leaks = [_measure(name, read_parts(chosen[name], column, decode), n, wanted[n], names) for name in held_out for n in lengths]
    return LeakReport("tokens" if column == "input_ids" else "words", trained, 1 / step, leaks)


class _Wanted:
    """The runs of the held-out splits, and which of them training was seen to have."""

    def __init__(self, hashes: list[np.ndarray]):
        self.hashes = np.unique(np.concatenate([np.zeros(1, dtype=np.uint64), *hashes]))
        self.seen = np.zeros(len(self.hashes), dtype=bool)
        # A table by the lowest bits says of most runs of training that they are not there, sooner than a search.
        self._mask = np.uint64((1 << min((len(self.hashes) * 8).bit_length(), 27)) - 1)
        self._table = np.zeros(int(self._mask) + 1, dtype=bool)
        self._table[self.hashes & self._mask] = True

    def mark(self, hashes: np.ndarray) -> None:
        """Take notice of runs of training."""
        hashes = hashes[self._table[hashes & self._mask]]
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        self.seen[places[self.hashes[places] == hashes]] = True

    def known(self, hashes: np.ndarray) -> np.ndarray:
        """Which of these held-out runs training has."""
        known: np.ndarray = self.seen[np.searchsorted(self.hashes, hashes)]
        return known


def _measure(name: str, parts: Iterator[Part], n: int, wanted: _Wanted, names: Mapping[int, str] | None) -> SplitLeak:
    leak = SplitLeak(name, n)
    totals, hits = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    excerpts: dict[int, tuple[int, str]] = {}
    for part in parts:
        hashes, starts, sizes = find_runs(part, n)
        known = wanted.known(hashes)
        # Up by one where a run starts, down by one behind its end: what is above 0 is covered.
        depth = np.zeros(len(part.tokens) + 1, dtype=np.int32)
        np.add.at(depth, starts[known], 1)
        np.add.at(depth, starts[known] + sizes[known], -1)
        covered = np.cumsum(depth[:-1]) > 0
        owner = np.repeat(part.documents, np.diff(part.edges))
        size = max(int(part.documents.max(initial=-1)) + 1, len(totals))
        totals, hits = (np.pad(array, (0, size - len(array))) for array in (totals, hits))
        totals += np.bincount(owner, minlength=size)
        hits += np.bincount(owner[covered], minlength=size)
        _keep_excerpts(excerpts, part, covered, hits)
    leak.documents, leak.tokens, leak.covered = int((totals > 0).sum()), int(totals.sum()), int(hits.sum())
    leak.touched, leak.mostly = int((hits > 0).sum()), int((2 * hits > totals).sum())
    for document in heapq.nsmallest(_WORST, np.flatnonzero(hits).tolist(), key=lambda item: (-hits[item], item)):
        called = (names or {}).get(document, f"{name}, row {document}")
        leak.worst.append(LeakedDocument(called, int(totals[document]), int(hits[document]), excerpts.get(document, (0, ""))[1]))
    return leak


def _keep_excerpts(excerpts: dict[int, tuple[int, str]], part: Part, covered: np.ndarray, hits: np.ndarray) -> None:
    """Add the longest covered runs of the documents that are the worst so far."""
    worst = set(heapq.nlargest(4 * _WORST, np.unique(part.documents).tolist(), key=lambda item: hits[item]))
    for sequence, document in enumerate(part.documents.tolist()):
        start, stop = part.edges[sequence : sequence + 2].tolist()
        if document not in worst or not covered[start:stop].any():
            continue
        borders = np.flatnonzero(np.diff(covered[start:stop].astype(np.int8), prepend=0, append=0))
        begin, size = max(
            zip(borders[::2].tolist(), (borders[1::2] - borders[::2]).tolist(), strict=True), key=lambda run: run[1]
        )
        if size > excerpts.get(document, (0, ""))[0]:
            excerpts[document] = size, part.excerpt(start + begin, start + begin + min(size, _EXCERPT))
