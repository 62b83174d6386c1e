"""The order of training rows."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, RandomSampler

from llmforge.data.rows import BLANK
from llmforge.data.sampler import EpochSampler


def steps_of(sampler, processes: int, batch: int, accumulation: int) -> list[list[int]]:
    """The rows of each optimizer step, as accelerate deals batches out to processes in turn."""
    shards = []
    for process in range(processes):
        batches = BatchSampler(sampler, batch_size=batch, drop_last=False)
        shards.append(list(BatchSamplerShard(batches, num_processes=processes, process_index=process)))
    assert len({len(shard) for shard in shards}) == 1  # or a process would wait for ever
    dealt = [[row for shard in shards for row in shard[i]] for i in range(len(shards[0]))]
    return [sum(dealt[i : i + accumulation], []) for i in range(0, len(dealt), accumulation)]


@pytest.mark.parametrize(("rows", "step_rows"), [(10, 4), (8, 4), (3, 8), (1, 1), (101, 16)])
def test_every_row_once_an_epoch_and_blanks_up_to_a_whole_step(rows, step_rows):
    sampler = EpochSampler(rows, step_rows, seed=3)
    order = list(sampler)
    assert sorted(order[:rows]) == list(range(rows))
    assert order[rows:] == [BLANK] * (-rows % step_rows)
    assert len(sampler) == len(order) == sampler.steps * step_rows


def test_the_order_is_frozen():
    """As literal numbers: a NumPy that shuffles otherwise would break the resume of every run."""
    assert list(EpochSampler(10, 4, seed=7)) == [0, 1, 5, 7, 6, 9, 4, 3, 2, 8, BLANK, BLANK]
    assert EpochSampler(10, 4, seed=7).order(1).tolist() == [9, 8, 5, 6, 2, 3, 7, 0, 1, 4, BLANK, BLANK]


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(1, 2, 4), (2, 4, 1), (2, 2, 2), (4, 2, 1), (4, 1, 2)])
def test_a_step_holds_the_same_rows_on_any_number_of_processes(processes, batch, accumulation):
    alone = steps_of(EpochSampler(101, 8, seed=1), 1, 8, 1)
    shared = steps_of(EpochSampler(101, 8, seed=1), processes, batch, accumulation)
    assert [sorted(step) for step in shared] == [sorted(step) for step in alone]


def test_two_processes_get_the_very_order_of_one():
    alone, shared = (steps_of(EpochSampler(101, 8, seed=1), processes, 8 // processes, 1) for processes in (1, 2))
    assert shared == alone


def test_epochs_differ_and_come_back():
    sampler = EpochSampler(50, 8, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second)
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_seeds_differ():
    orders = [EpochSampler(50, 8, seed=seed).order(0).tolist() for seed in (0, 1, 42)]
    assert orders[0] != orders[1] != orders[2]
    # Not just another epoch of the same sequence.
    assert EpochSampler(50, 8, seed=0).order(1).tolist() != orders[1]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63 - 1])
def test_any_seed_that_trainer_takes_is_taken(seed):
    assert sorted(EpochSampler(9, 3, seed).order(0).tolist()) == list(range(9))


def test_drawing_leaves_the_random_states_alone():
    import numpy as np

    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    list(EpochSampler(50, 8, seed=5))
    assert (torch.rand(1), np.random.rand()) == expected


def test_trap_stock_repeats_rows_at_the_end_of_an_epoch():
    """Why there is a sampler of ours: 10 rows, 2 processes of 4."""

    class Seeded(RandomSampler):
        def __iter__(self):
            self.generator = torch.Generator().manual_seed(0)
            return super().__iter__()

    repeated = Counter(sum(steps_of(Seeded(range(10)), 2, 4, 1), []))
    ours = Counter(sum(steps_of(EpochSampler(10, 8, seed=0), 2, 4, 1), []))
    assert max(repeated.values()) > 1
    assert max(count for row, count in ours.items() if row != BLANK) == 1
    assert set(ours) - {BLANK} == set(range(10))
