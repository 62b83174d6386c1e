"""The numbers of a model that memory and speed depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmforge.models import count_hidden, count_parameters

if TYPE_CHECKING:
    from transformers import GPT2Config, GPTNeoXConfig


@dataclass(frozen=True)
class Shape:
    """A model by its sizes.

    Attributes:
        family: ``GPT-2`` or ``GPT-NeoX``.
        layers: Transformer blocks.
        width: Of the hidden states.
        inner: Of the feed-forward layers.
        heads: Attention heads.
        vocabulary: Rows of the embedding table.
        positions: Longest sequence.
        parameters: All of them, tied ones once.
        matrices: Weights in the matrices of the blocks.
        tied: Whether embeddings and output head share their table.
        parallel: Whether attention and feed-forward read the same residual.
        activation: Of the feed-forward layers.
        dropout: Of the residual branches or the embeddings, whether there is any.
        attention_dropout: Whether attention weights are dropped.
    """

    family: str
    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    positions: int
    parameters: int
    matrices: int
    tied: bool
    parallel: bool
    activation: str
    dropout: bool
    attention_dropout: bool

    @property
    def table(self) -> int:
        """Entries of the embedding table, and of the output head."""
        return self.vocabulary * self.width


def shape_from(config: GPT2Config | GPTNeoXConfig) -> Shape:
    """The sizes in a Hugging Face config."""
    gpt2 = config.model_type == "gpt2"
    width = config.hidden_size
    return Shape(
        family="GPT-2" if gpt2 else "GPT-NeoX",
        layers=config.num_hidden_layers,
        width=width,
        inner=(config.n_inner or 4 * width) if gpt2 else config.intermediate_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        parameters=count_parameters(config),
        matrices=count_hidden(config),
        tied=bool(config.tie_word_embeddings),
        parallel=not gpt2 and bool(config.use_parallel_residual),
        activation=config.activation_function if gpt2 else config.hidden_act,
        dropout=max(config.resid_pdrop, config.embd_pdrop) > 0 if gpt2 else config.hidden_dropout > 0,
        attention_dropout=(config.attn_pdrop if gpt2 else config.attention_dropout) > 0,
    )
