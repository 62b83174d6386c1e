"""What to train in a given time: model, vocabulary, context and batch, from the corpus and the speed of the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmforge.planning.corpus import bytes_per_token

#: Layers and widths, from the least to the largest. 2 layers, where there is time for more, were much worse than 3 or 4, and 3 of
#: 96 than 4 of 64 (docs/how-to/deadline.md).
LADDER = (
    *((1, 64), (2, 64), (3, 64), (4, 64), (4, 96), (4, 128), (6, 128), (6, 192), (6, 256), (8, 256)),
    *((10, 256), (8, 384), (12, 384), (8, 512), (12, 512), (10, 640), (12, 768), (16, 896), (24, 1024), (36, 1280), (48, 1600)),
)
#: Tokens for each weight in the blocks' matrices from which a larger model is taken. The published optimum is 20 for each of all
#: parameters (Hoffmann et al. 2022). In docs/how-to/deadline.md models with 6 to 15 were best, and those with 4 and 5 worse.
TOKENS_A_WEIGHT = 6.0
#: Weights for each token of the corpus, at most, and in a model of this size in any case: beyond that more time does not make a
#: larger one, which would learn the text by heart sooner. Of three slices of a corpus one was best with this many, the largest
#: that was tried of it, and one was worse with twice as many (docs/how-to/deadline.md).
_WEIGHTS_A_TOKEN, _ALWAYS = 4.1, 12 * 4 * 64**2
#: Passes over the corpus, at most, however much time there is. With 24 of them small models were better than with 16, and no more
#: were tried; GPT-2s were worse with 40. A schedule that is made for passes that learn a text by heart ends worse.
MOST_EPOCHS = 24.0
#: Entries by width. More of them than blocks of this width would seem to want: an entry more is fewer tokens a byte, and so more
#: bytes in the same time; docs/how-to/deadline.md has the few runs that this rests on.
_VOCABULARY = ((128, 4096), (256, 8192), (512, 16384), (10**9, 32768))
#: Bytes of text for each entry, at least: of 320 KB 4,096 were better than 1,024, and of 104 KB 2,048 no better.
_BYTES_AN_ENTRY = 72
#: Tokens of a step are this often the root of all tokens, within bounds. An assumption, as is the context below.
_STEP_ROOT, _STEP_TOKENS = 1.3, (1024, 524288)
#: From so many epochs on this is dropped, and this is the least for a step: more noise from either side learns by heart sooner.
#: Above 8 epochs 0.2 is what was tried; the rest is an assumption.
_DROPOUT, _LEAST_STEP = ((4.0, 0.1), (8.0, 0.2)), (8.0, 2048)
#: Context by width.
_CONTEXT = ((128, 256), (384, 512), (10**9, 1024))
#: Of the tokens that the time is enough for, what one evaluation may have: a third of the work of training on them.
_EVALUATED, _LEAST_ROWS = 0.018, 16


#: Weights of the least model.
SMALLEST = 12 * LADDER[0][0] * LADDER[0][1] ** 2


@dataclass(frozen=True)
class Pinned:
    """What the user has decided; None for what follows from the rest.

    Attributes:
        shape: Layers and width.
        vocabulary: Entries, or those of a tokenizer that is there.
        block_size: Tokens of a row.
        longest: Tokens of a row, at most.
        step_rows: Rows of an optimizer step.
        epochs: Passes over the corpus, at most; infinite where steps are counted instead.
    """

    shape: tuple[int, int] | None = None
    vocabulary: int | None = None
    block_size: int | None = None
    longest: int | None = None
    step_rows: int | None = None
    epochs: float | None = None


NOTHING = Pinned()


@dataclass(frozen=True)
class Choice:
    """A model and how to train it.

    Attributes:
        layers: Blocks.
        width: Of the hidden states.
        vocabulary: Entries to ask for.
        block_size: Tokens of a row.
        step_rows: Rows of an optimizer step.
        dropout: Of residual branches and embeddings.
        tokens: To train on: as many as the time is enough for, or as many epochs of the corpus as there may be.
        unique: That the corpus has.
        afforded: Tokens that the time is enough for.
    """

    layers: int
    width: int
    vocabulary: int
    block_size: int
    step_rows: int
    dropout: float
    tokens: float
    unique: float
    afforded: float

    def __str__(self) -> str:
        return f"{self.layers} layer{'s' * (self.layers > 1)} of {self.width}"

    @property
    def heads(self) -> int:
        """Of the attention: 32 wide as in gpt2-10m, 64 from 512 on as in the larger presets."""
        return self.width // (32 if self.width < 512 else 64)

    @property
    def weights(self) -> int:
        """In the matrices of the blocks."""
        return 12 * self.layers * self.width**2

    @property
    def epochs(self) -> float:
        """Passes over the corpus that the tokens are."""
        return self.tokens / self.unique

    @property
    def ends_early(self) -> bool:
        """Whether the corpus is used up before the time is."""
        return self.tokens < self.afforded

    @property
    def operations(self) -> float:
        """For one token, forward and backward, as `llmforge.planning.speed.flops_per_token` counts them."""
        return operations(self.layers, self.width, self.vocabulary, self.block_size)

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.step_rows * self.block_size

    @property
    def evaluation_rows(self) -> int:
        """Rows of an evaluation that takes a small part of the time."""
        return max(round(_EVALUATED * self.afforded / self.block_size), _LEAST_ROWS)


def operations(layers: int, width: int, vocabulary: int, length: int) -> float:
    """Operations for one token of a row, by sizes."""
    return 6.0 * (12 * layers * width**2 + vocabulary * width) + 12.0 * layers * width * length


def choose(seconds: float, rate: float, corpus: float, pinned: Pinned = NOTHING, processes: int = 1) -> Choice:
    """The largest model of the ladder that the time is long enough for, and what goes with it.

    Args:
        seconds: Of training.
        rate: Operations a second of all processes together.
        corpus: Bytes of training text.
        pinned: What stays as it is.
        processes: That share a step's rows evenly.
    """
    shapes = (pinned.shape,) if pinned.shape else LADDER
    made = [_with_shape(layers, width, seconds * rate, corpus, pinned, processes) for layers, width in shapes]
    enough = [
        choice
        for choice in made
        if choice.afforded >= TOKENS_A_WEIGHT * choice.weights
        and choice.weights <= max(_WEIGHTS_A_TOKEN * choice.unique, _ALWAYS)
    ]
    return (enough or made[:1])[-1]


def _with_shape(layers: int, width: int, work: float, corpus: float, pinned: Pinned, processes: int) -> Choice:
    vocabulary = pinned.vocabulary
    if vocabulary is None:
        vocabulary = next(size for most, size in _VOCABULARY if width <= most)
        while vocabulary > 512 and vocabulary * _BYTES_AN_ENTRY > corpus:
            vocabulary //= 2
    length = next(size for most, size in _CONTEXT if width <= most)
    length = pinned.block_size or min(length, pinned.longest or length)
    afforded = work / operations(layers, width, vocabulary, length)
    unique = max(corpus / bytes_per_token(vocabulary), 1.0)
    tokens = min(afforded, (pinned.epochs or MOST_EPOCHS) * unique)
    rows = pinned.step_rows
    if rows is None:
        least = _LEAST_STEP[1] if tokens >= _LEAST_STEP[0] * unique else _STEP_TOKENS[0]
        wanted = min(max(_STEP_ROOT * tokens**0.5, least), _STEP_TOKENS[1], max(unique / 8, length))
        rows = 1 << max(round(math.log2(wanted / length)), 0)
        rows = -(-rows // processes) * processes
    dropout = max((share for epochs, share in _DROPOUT if tokens / unique >= epochs), default=0.0)
    return Choice(layers, width, vocabulary, length, rows, dropout, tokens, unique, afforded)
