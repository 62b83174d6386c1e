"""Arrow arrays straight from numpy's memory, and back.

`pyarrow.array` and `to_numpy` import pandas, which takes longer than what small corpora need in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def numbers(values: np.ndarray) -> pa.Array:
    """`values` as they lie in memory; 1-D."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def as_numpy(values: pa.Array) -> np.ndarray:
    """Numbers without nulls, as they lie in memory."""
    dtype = values.type.to_pandas_dtype()
    buffer = values.buffers()[1]
    return np.zeros(0, dtype) if buffer is None else np.frombuffer(buffer, dtype)[values.offset :][: len(values)]


def strings(values: Sequence[str], kind: Any) -> pa.Array:
    """`values` as UTF-8.

    Args:
        values: Without halves of surrogate pairs.
        kind: ``pa.string()``, or ``pa.large_string()`` for more than two gigabytes.
    """
    encoded = [value.encode() for value in values]
    ends = _ends([len(value) for value in encoded], np.int64 if pa.types.is_large_string(kind) else np.int32)
    return pa.Array.from_buffers(kind, len(encoded), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))])


def lists(values: Sequence[np.ndarray], dtype: Any, large: bool = False) -> pa.Array:
    """A list of numbers a place; `large` for more than two thousand million numbers in all."""
    flat = np.concatenate([np.zeros(0, dtype), *values]).astype(dtype, copy=False)
    ends = _ends([len(value) for value in values], np.int64 if large else np.int32)
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(numbers(ends), numbers(flat))


def _ends(lengths: Sequence[int], dtype: Any) -> np.ndarray:
    return np.cumsum([0, *lengths]).astype(dtype)
