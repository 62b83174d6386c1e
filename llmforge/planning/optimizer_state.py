"""What each optimizer keeps, and what its step needs besides."""

from __future__ import annotations

from llmforge.planning.shapes import Shape

#: By the start of a name of ``--optim``, the first that fits: bytes of state a trained parameter. From the papers and sources:
#: two moments in fp32 are 8; 8-bit states have a scale in fp32 for every 256 entries besides.
_STATES: tuple[tuple[str, float], ...] = (
    ("adamw_8bit", 2 + 8 / 256),
    ("adamw_bnb_8bit", 2 + 8 / 256),
    ("paged_adamw_8bit", 2 + 8 / 256),
    ("paged_adamw_32bit", 8),
    ("adamw_torch_8bit", 2 + 8 / 256),
    ("adamw_torch_4bit", 1 + 8 / 128),
    ("adamw_anyprecision", 4),
    ("adamw", 8),
    ("ademamix_8bit", 3 + 12 / 256),
    ("paged_ademamix_8bit", 3 + 12 / 256),
    ("ademamix", 12),
    ("paged_ademamix", 12),
    ("lion_8bit", 1 + 4 / 256),
    ("paged_lion_8bit", 1 + 4 / 256),
    ("lion", 4),
    ("paged_lion", 4),
    ("rmsprop_bnb_8bit", 1 + 4 / 256),
    ("rmsprop", 4),
    ("adagrad", 4),
    ("sgd", 0),
    ("schedule_free_radam", 8),
    ("schedule_free_adamw", 8),
    ("schedule_free_sgd", 4),
    ("stable_adamw", 8),
    ("grokadamw", 12),
)
#: Elements that Muon orthogonalises at a time (`llmforge.muon`).
_MUON_CHUNK = 1 << 24


def is_known(optim: str) -> bool:
    """Whether the state of ``--optim`` is known here; of another one AdamW's is counted, which few exceed."""
    return optim in ("muon", "adafactor") or any(optim.startswith(name) for name, _ in _STATES)


def state_bytes(optim: str, shape: Shape, trained: int | None = None) -> int:
    """Bytes that the optimizer keeps between steps.

    Args:
        optim: A name of ``--optim``.
        shape: Of the model.
        trained: Parameters that are trained; all by default.
    """
    trained = shape.parameters if trained is None else trained
    whole = trained == shape.parameters
    if optim == "muon":  # one buffer for the matrices, AdamW's two for the rest; of adapters, which lie in the blocks, one
        return 4 * shape.matrices + 8 * (trained - shape.matrices) if whole else 4 * trained
    if optim == "adafactor":  # a row and a column for a matrix, a number for each entry of a vector (Shazeer & Stern 2018)
        if not whole:
            return 4 * trained
        tables = (1 if shape.tied else 2) * (shape.vocabulary + shape.width) + (shape.family == "GPT-2") * (
            shape.positions + shape.width
        )
        vectors = trained - shape.matrices - shape.table * (1 if shape.tied else 2)
        vectors -= shape.positions * shape.width if shape.family == "GPT-2" else 0
        return 4 * (tables + shape.layers * (6 * shape.width + 2 * (shape.width + shape.inner)) + vectors)
    return int(trained * next((size for name, size in _STATES if optim.startswith(name)), 8))


def working_bytes(optim: str, shape: Shape, half: bool, trained: int | None = None) -> int:
    """Bytes that a step of the optimizer needs while it runs, beyond weights, gradients and state.

    Muon stacks matrices of one shape, up to a limit, and multiplies them: beside the stack the iterate and the
    next one, and two products of the shorter side (in bf16 the stack and its quotient, in fp32, are the most).
    Fused AdamW works in place; torch's other ones make the update of all parameters at once.
    """
    trained = shape.parameters if trained is None else trained
    if optim == "muon":
        if trained != shape.parameters:
            return 12 * min(trained, _MUON_CHUNK)
        sides = {(shape.width, shape.width): 4 * shape.layers * shape.width**2}
        short, long = sorted((shape.width, shape.inner))
        sides[short, long] = sides.get((short, long), 0) + 2 * shape.layers * shape.width * shape.inner
        largest = 0.0
        for (one, other), total in sides.items():
            # A whole weight is never cut: attention's is three matrices.
            chunk = min(total, max(_MUON_CHUNK, 3 * shape.width**2 if one == other == shape.width else one * other))
            largest = max(largest, chunk * (10 if half else 12 + 8 * one / other))
        return int(largest)
    fused = optim in ("adamw_torch_fused", "sgd") or "8bit" in optim or "paged" in optim or "lion" in optim
    return 0 if fused else 4 * trained if optim != "adafactor" else 8 * max(shape.table, shape.width * shape.inner)
