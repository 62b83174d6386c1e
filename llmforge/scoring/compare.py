"""Two models or more on the same text or rows: differences from the first, each with a paired test."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmforge.errors import DataError
from llmforge.losses import SEGMENT_SUM_NAMES
from llmforge.scoring.pairs import Difference, difference
from llmforge.scoring.result import Comparison, Evaluation

_BYTES, _BYTE_NLL = SEGMENT_SUM_NAMES.index("bytes"), SEGMENT_SUM_NAMES.index("byte_nll")
#: Shares of answers that are compared, with what they are shares of; None is the rows.
_SHARES = {"exact_match": None, "in_format": None, "field_accuracy": "asked", "rougeL": None}


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Compare each evaluation with the first.

    Raises:
        DataError: They are not of the same documents.
    """
    first, *others = evaluations
    return Comparison(list(evaluations), [_differences(first, other) for other in others])


def _differences(first: Evaluation, other: Evaluation) -> dict[str, Difference]:
    ours, theirs = first.by_document, other.by_document
    assert ours is not None
    assert theirs is not None
    if len(ours) != len(theirs):
        raise DataError(
            f"{first.model} and {other.model} were not evaluated on the same documents: {len(ours)} and {len(theirs)}.",
            "Give both the text itself, by --corpus.",
        )
    bits = ours[:, _BYTE_NLL] / math.log(2), theirs[:, _BYTE_NLL] / math.log(2)
    found = {"bits_per_byte": difference(bits[0], bits[1], ours[:, _BYTES], theirs[:, _BYTES])}
    if first.scores is not None and other.scores is not None and first.answers is not None:
        here, there = first.scores.columns, other.scores.columns
        for name, whole in _SHARES.items():
            if name in ("in_format", "field_accuracy") and first.answers.field_accuracy is None:
                continue
            column = "right" if name == "field_accuracy" else name
            parts = here[whole] if whole else here[column] * 0 + 1
            found[name] = difference(here[column], there[column], parts, parts)
    return {name: value for name, value in found.items() if value is not None}
