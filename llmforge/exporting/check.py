"""Whether an export is the model: the ids of some thousand lines, and log-probabilities at some hundred prefixes."""

from __future__ import annotations

import itertools
import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmforge.errors import CheckFailed, DataError
from llmforge.exporting.lines import verify_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Most that log-probabilities may be off, as a share of their own spread (root mean square over standard deviation).
#: docs/how-to/deploy.md has what right exports had; one wrong tensor makes it some hundred times as much.
BOUNDS = {"f32": 0.005, "f16": 0.005, "bf16": 0.02, "q8_0": 0.06}
#: Most that the perplexity of the text may differ.
PERPLEXITY_BOUNDS = {"f32": 0.005, "f16": 0.005, "bf16": 0.005, "q8_0": 0.02}
#: Prefixes: so many of short texts of so many tokens, and the last ones of one that fills the context.
_PREFIXES, _LENGTH, _LAST = 208, 40, 16
#: Lines that are compared at a time.
_TOGETHER = 500
_MOST_LINES = 20_000


class Reader(Protocol):
    """What opens an export, other than llmforge."""

    name: str

    def tokenize(self, texts: Sequence[str], separator: int, special: bool) -> list[int]:
        """The ids of each text, each followed by `separator`."""

    def log_probabilities(self, prefix: Sequence[int], target: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities of some next tokens: `target`, then others."""


@dataclass
class CheckResult:
    """What a check that passed has found.

    Attributes:
        reader: What opened the file.
        lines: Whose ids were equal.
        prefixes: After which log-probabilities were compared.
        largest: Difference of a log-probability, in nats.
        mean: Of the differences, in nats.
        error: Root mean square of the differences over the standard deviation of the log-probabilities.
        bound: Of `error`.
        perplexity: Of the text at these prefixes, as the reader has it.
        original_perplexity: As the model itself has it.
        same_first: Share of the prefixes after which both find the same token likeliest.
    """

    reader: str
    lines: int
    prefixes: int
    largest: float
    mean: float
    error: float
    bound: float
    perplexity: float
    original_perplexity: float
    same_first: float

    def as_json(self) -> dict[str, Any]:
        """Its attributes."""
        return asdict(self)


def lines_to_verify(tokenizer: PreTrainedTokenizerBase, corpus: str | None) -> list[str]:
    """The lines of `corpus`, a text file, or else those that llmforge ships, with the tokenizer's own tokens in them.

    Where the tokenizer composes characters (NFC), which llama.cpp does not, the lines come composed.

    Raises:
        DataError: The file cannot be read, or has no lines.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if corpus is None:
        own = tuple(token["content"] for token in description["added_tokens"])
        lines = verify_lines(own)
    else:
        try:
            text = Path(corpus).expanduser().read_bytes().decode("utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"--verify_corpus {corpus} cannot be read: {error.strerror}.", "Give a text file.") from error
        lines = [line for line in dict.fromkeys(text.split("\n")) if line][:_MOST_LINES]
        if not lines:
            raise DataError(f"--verify_corpus {corpus} has no text in it.", "Give a text file with lines.")
    if description["normalizer"] is not None:
        lines = [unicodedata.normalize("NFC", line) for line in lines]
    return lines


def check_export(
    reader: Reader, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], dtype: str, what: str
) -> CheckResult:
    """Compare what `reader` has opened with the original.

    Args:
        lines: Texts to compare ids on, and to take prefixes from.
        dtype: By which the bounds are chosen.
        what: The export, for messages.

    Raises:
        CheckFailed: They differ; the first line, or the prefix with the largest difference, is named.
    """
    _compare_ids(reader, tokenizer, lines, what)
    found = list(_compare_numbers(reader, model, tokenizer, lines))
    differences = np.concatenate([one.differences for one in found])
    spread = math.sqrt(math.fsum(one.variance for one in found) / len(found))
    error = math.sqrt(float(np.mean(differences**2))) / spread
    ours, theirs = (math.fsum(getattr(one, name) for one in found) / len(found) for name in ("own", "theirs"))
    result = CheckResult(
        reader=reader.name,
        lines=len(lines),
        prefixes=len(found),
        largest=float(np.abs(differences).max()),
        mean=float(np.abs(differences).mean()),
        error=error,
        bound=BOUNDS[dtype],
        perplexity=math.exp(-theirs),
        original_perplexity=math.exp(-ours),
        same_first=sum(one.same_first for one in found) / len(found),
    )
    if not (error <= BOUNDS[dtype] and abs(math.expm1(ours - theirs)) <= PERPLEXITY_BOUNDS[dtype]):  # NaN too
        worst = max(found, key=lambda one: float(np.abs(one.differences).max()))
        raise CheckFailed(
            f"{what}: {reader.name} computes other numbers than the model. Log-probabilities are {error:.2%} of their spread off "
            f"(bound {BOUNDS[dtype]:.1%}), by {result.largest:.3f} nats at most, after {worst.prefix} tokens of a text; "
            f"perplexity is {result.perplexity:.4g}, the model's {result.original_perplexity:.4g} "
            f"(bound {PERPLEXITY_BOUNDS[dtype]:.1%}).",
            "Give another --dtype, or --format safetensors." if dtype == "q8_0" else "",
        )
    return result


def _compare_ids(reader: Reader, tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], what: str) -> None:
    separator = tokenizer.eos_token_id
    for special, start in itertools.product((False, True), range(0, len(lines), _TOGETHER)):
        some = lines[start : start + _TOGETHER]
        own = tokenizer(list(some), add_special_tokens=False, split_special_tokens=not special, verbose=False)["input_ids"]
        if reader.tokenize(some, separator, special) == [token for ids in own for token in (*ids, separator)]:
            continue
        for number, (line, ids) in enumerate(zip(some, own, strict=True), start=start + 1):
            theirs = reader.tokenize([line], separator, special)[:-1]
            if theirs != ids:
                place = next((i for i, (a, b) in enumerate(zip(ids, theirs, strict=False)) if a != b), min(len(ids), len(theirs)))
                raise CheckFailed(
                    f"{what}: {reader.name} cuts line {number}, {line[:60]!r}, into other tokens: from the {place + 1}th on "
                    f"{theirs[place : place + 4]} instead of {ids[place : place + 4]}."
                )
        raise CheckFailed(f"{what}: {reader.name} cuts some of lines {start + 1} to {start + len(some)} into other tokens.")


@dataclass
class _Compared:
    """One prefix: differences of log-probabilities, their variance by the model, the next token's, and who is first."""

    prefix: int
    differences: np.ndarray
    variance: float
    own: float
    theirs: float
    same_first: bool


def _compare_numbers(
    reader: Reader, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]
) -> Iterator[_Compared]:
    import torch

    known = max(tokenizer.get_vocab().values()) + 1
    for ids, places in _texts(tokenizer, lines, model.config.max_position_embeddings):
        with torch.inference_mode():
            logits = model(torch.tensor([ids[:-1]], device=model.device), use_cache=False).logits[0]
        for place in places:
            # Over the tokens there are: the rows beyond them are not exported.
            own = torch.log_softmax(logits[place - 1, :known].double(), dim=-1).cpu().numpy()
            index, theirs = reader.log_probabilities(ids[:place], ids[place])
            likeliest = int(index[int(np.argmax(theirs))])
            same = likeliest == int(own.argmax())
            yield _Compared(place, theirs - own[index], float(own.var()), float(own[ids[place]]), float(theirs[0]), same)


def _texts(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], positions: int) -> Iterator[tuple[list[int], list[int]]]:
    """Texts as ids after their start context, and the places in each whose token is to be predicted."""
    # Lines from all over, and from the start again where there are few.
    order = itertools.cycle(np.random.default_rng(0).permutation(len(lines)).tolist())
    waiting: list[int] = []

    def text(length: int) -> tuple[list[int], list[int]]:
        while len(waiting) < length:
            waiting.extend(
                tokenizer(lines[next(order)] + "\n", add_special_tokens=False, split_special_tokens=True, verbose=False)[
                    "input_ids"
                ]
            )
        ids = [tokenizer.bos_token_id, *waiting[:length]]
        del waiting[:length]
        # llama.cpp's server answers only where the token it generates ends a character.
        return ids, [place for place in range(1, len(ids)) if "\ufffd" not in tokenizer.decode([ids[place]])]

    left = _PREFIXES
    for _ in range(_PREFIXES):  # enough, unless hardly any token ends a character
        ids, places = text(min(_LENGTH, positions - 1))
        yield ids, places[:left]
        left -= len(places)
        if left <= 0:
            break
    ids, places = text(positions - 1)
    yield ids, places[-_LAST:]
