"""The order of training rows: a pure function of seed, epoch, step and global batch size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from llmforge.data.rows import BLANK


class EpochSampler(Sampler[int]):
    """Every row once an epoch, in an order that depends on seed and epoch alone.

    An epoch is filled up to whole optimizer steps with blank rows, which predict nothing.
    So each process gets the same number of batches without any row being repeated (which is
    what accelerate does with an uneven end), and step s of an epoch holds the same rows on
    any number of processes, with any accumulation, and after any resume.

    Args:
        rows: Rows in the split.
        step_rows: Rows of one optimizer step: batch per device x accumulation x processes.
        seed: Another seed is another order.
    """

    def __init__(self, rows: int, step_rows: int, seed: int):
        self.rows = rows
        self.step_rows = step_rows
        self.seed = seed
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.rows // self.step_rows)

    def __len__(self) -> int:
        return self.steps * self.step_rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration has."""
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers of `epoch`, then `BLANK` up to a whole step; int64, ``(len(self),)``."""
        # RandomState's streams are frozen by NumPy's policy (NEP 19), so a resume under a
        # newer NumPy still finds the same order; Generator's may change.
        permutation = np.random.RandomState([self.seed % 2**32, epoch]).permutation(self.rows)
        return np.concatenate([permutation, np.full(len(self) - self.rows, BLANK)])

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())
