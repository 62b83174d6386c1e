"""What a training step holds in memory, and when it holds the most."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmforge.planning.activations import Batch, backward_bytes, inference_bytes, kept_bytes
from llmforge.planning.optimizer_state import state_bytes, working_bytes
from llmforge.planning.shapes import Shape

#: Of `llmforge.cross_entropy`: bytes of a chunk's logits in fp32 and its rows at most, on a CPU; bytes elsewhere; rows in fp16.
_CPU_CHUNK, _CPU_ROWS, _CHUNK, _FP16_ROWS, _TILE = 64 * 2**20, 512, 256 * 2**20, 1024, 64
#: Rows whose logits an evaluation has at a time (`llmforge.losses`), and how many tensors of them: logits, log-probabilities
#: and a copy of either.
_EVALUATION_ROWS, _EVALUATION_TENSORS = 1024, 3
#: What a process holds before there is a model: Python, torch, transformers and what they load (benchmarks/plan.py measures
#: it). A GPU's driver and libraries take the second, and its allocator wastes the third, as a share; not tried on hardware.
PROCESS_BYTES, CONTEXT_BYTES, GPU_WASTE = 580 * 2**20, 600 * 2**20, 0.05
#: What the C library keeps on a CPU of blocks that were freed and do not fit again, at most: a share of all that is held, and
#: with checkpointing, which takes and frees each block's activations in turn, a share of what it spares. Seen with glibc 2.36:
#: docs/how-to/plan.md; with MALLOC_MMAP_THRESHOLD_=131072 there is none of it, and steps take longer.
CPU_WASTE, CHECKPOINTED_WASTE = 0.3, 0.7


def chosen_attention(asked: str, kind: str, half: bool, dropout: bool) -> str:
    """``segments``, ``varlen`` or ``mask``: what ``--packed_attention`` comes to, if the kernels of a device work.

    Args:
        asked: ``--packed_attention``.
        kind: Of the device, as `Device.kind`.
        half: Whether it computes in half precision.
        dropout: Whether attention weights are dropped.
    """
    if asked != "auto":
        return asked
    return "varlen" if kind == "cuda" and half and not dropout else "segments"


@dataclass(frozen=True)
class Setup:
    """Everything about a training that its memory depends on.

    Attributes:
        shape: The model.
        batch: A micro-batch.
        accumulation: Micro-batches of an optimizer step.
        optim: ``--optim``.
        fp16: Whether half precision is fp16, whose loss goes in smaller chunks.
        lean: ``--lean_loss``.
        processes: That train together.
        sharded: Whether they share weights, gradients and state out among them (FSDP) instead of each having all (DDP).
        snapshot: Whether a checkpoint is copied into memory before it is written (``--async_save``).
        evaluation_rows: Of an evaluation's batch; 0 without evaluations.
        trained: Parameters that are trained; all by default.
    """

    shape: Shape
    batch: Batch
    accumulation: int = 1
    optim: str = "muon"
    fp16: bool = False
    lean: bool = True
    processes: int = 1
    sharded: bool = False
    snapshot: bool = True
    evaluation_rows: int = 8
    trained: int | None = None

    def with_rows(self, rows: int, accumulation: int | None = None) -> Setup:
        """The same with another micro-batch."""
        return replace(self, batch=replace(self.batch, rows=rows), accumulation=accumulation or self.accumulation)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    The parts are each at their own largest, and never all there at once: the gradients are made while the
    activations go.

    Attributes:
        weights: In fp32.
        gradients: In fp32, of what is trained.
        optimizer: Its state.
        activations: Kept by the forward pass, with the half-precision copies of the weights.
        loss: Logits of a chunk, or all of them with stock's loss, and the gradients that come with them.
        working: Of the optimizer's step while it runs.
        snapshot: The copy of a checkpoint that is being written, in the memory of the machine.
        gathered: What the processes have of each other at a time: DDP's buckets, FSDP's blocks.
        allowance: What there is besides: the process, or the GPU's libraries and what its allocator wastes.
        moments: The sum of what is there at each moment, allowance included; the largest is the peak.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    working: int
    snapshot: int
    gathered: int
    allowance: int
    moments: dict[str, int]

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return max(self.moments.values())

    @property
    def moment(self) -> str:
        """When that is."""
        return max(self.moments, key=lambda name: self.moments[name])


def chunk_bytes(setup: Setup) -> int:
    """The logits of the lean loss that exist at a time, in what is multiplied in and in fp32."""
    vocabulary, rows = setup.shape.vocabulary, setup.batch.tokens
    most = _CHUNK // (4 * vocabulary) if setup.batch.gpu else min(_CPU_CHUNK // (4 * vocabulary), _CPU_ROWS)
    most = max((min(most, _FP16_ROWS) if setup.fp16 else most) // _TILE, 1) * _TILE
    chunks = max(-(-rows // most), 1)
    rows = min(max(-(-rows // (chunks * _TILE)), 1) * _TILE, rows)
    return rows * vocabulary * (setup.batch.element + 4)


def _loss(setup: Setup) -> tuple[int, int]:
    """Bytes of the loss while it is computed, and of what of it the backward pass begins with."""
    shape, batch = setup.shape, setup.batch
    hidden = 4 * shape.width * batch.tokens
    if not setup.lean:
        # Logits, their logarithms and the gradients of either, three at a time; the hidden states.
        all_logits = 12 * shape.vocabulary * batch.tokens
        return all_logits + hidden, all_logits
    after = hidden + 4 * shape.table  # the gradients, made at once
    copies = 4 * shape.table + hidden // 2 if batch.half else 0  # head and hidden states in half, the product for the head
    return after + hidden + copies + chunk_bytes(setup), after


def estimate(setup: Setup) -> Memory:
    """The memory of one process of a training, by arithmetic."""
    shape, batch, pieces = setup.shape, setup.batch, setup.processes if setup.sharded else 1
    trained = shape.parameters if setup.trained is None else setup.trained
    weights, gradients = 4 * shape.parameters // pieces, 4 * trained // pieces
    state = state_bytes(setup.optim, shape, setup.trained) // pieces
    working = working_bytes(setup.optim, shape, batch.half, setup.trained) // pieces
    gathered = 0
    if setup.sharded and setup.processes > 1:  # two blocks, the tables around them, and the gradients of one block
        block = shape.matrices // shape.layers
        gathered = batch.element * (2 * block + (1 if shape.tied else 2) * shape.table) + 4 * block
    elif setup.processes > 1:
        gathered = gradients
    copies = 2 * shape.matrices if batch.half and not setup.sharded else 0
    kept, loss, left = kept_bytes(shape, batch), *_loss(setup)
    made = backward_bytes(shape, batch)
    fixed = weights + state + gathered
    held = gradients if setup.accumulation > 1 else 0
    block_kept = 0 if batch.checkpointed else kept // shape.layers
    sums = {
        "end of the forward pass": fixed + held + kept + copies + loss,
        "start of the backward pass": fixed + held + kept + copies + left + made,
        "end of the backward pass": fixed + gradients + max(made + block_kept, 4 * shape.table * (shape.tied or held > 0)),
        "optimizer step": fixed + gradients + working,
    }
    if setup.evaluation_rows:
        rows = min(_EVALUATION_ROWS, setup.evaluation_rows * batch.length)
        logits = _EVALUATION_TENSORS * rows * 4 * shape.vocabulary
        sums["evaluation"] = fixed + copies + inference_bytes(shape, replace(batch, rows=setup.evaluation_rows)) + logits
    # The first process brings a sharded state together, whether it waits for the disk or not.
    snapshot = (weights + state) * (setup.processes if setup.sharded else 1) if setup.snapshot or setup.sharded else 0
    if batch.gpu:  # the copy is made in the machine's memory, not in the GPU's
        allowances = {name: CONTEXT_BYTES + int(GPU_WASTE * total) for name, total in sums.items()}
    else:
        spared = kept_bytes(shape, replace(batch, checkpointed=0)) - kept
        allowances = {
            name: PROCESS_BYTES + snapshot + max(int(CPU_WASTE * total), int(CHECKPOINTED_WASTE * spared))
            for name, total in sums.items()
        }
    moments = {name: total + allowances[name] for name, total in sums.items()}
    allowance = allowances[max(moments, key=lambda name: moments[name])] - (0 if batch.gpu else snapshot)
    return Memory(weights, gradients, state, kept + copies, loss, working, snapshot, gathered, allowance, moments)


def largest_rows(setup: Setup, step_rows: int, memory: int) -> int:
    """The largest micro-batch whose peak fits in `memory` bytes, of those that divide the rows of an optimizer step.

    Args:
        setup: The training; its own micro-batch does not matter.
        step_rows: Rows that one process contributes to an optimizer step.
        memory: Bytes that a process may hold.

    Returns:
        Rows; 0 where not even one fits.
    """
    divisors = [rows for rows in range(step_rows, 0, -1) if step_rows % rows == 0]
    return next((rows for rows in divisors if estimate(setup.with_rows(rows, step_rows // rows)).peak <= memory), 0)
