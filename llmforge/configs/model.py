"""Which model to build, and the fields of its Hugging Face config that may be overridden."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmforge.errors import ConfigError

#: Architecture → the fields of `ModelArguments` that are fields of its config; both for either.
FIELDS: dict[str, tuple[str, ...]] = {
    "GPT-2": (
        "n_layer",
        "n_head",
        "n_embd",
        "n_inner",
        "n_positions",
        "activation_function",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "layer_norm_epsilon",
        "scale_attn_by_inverse_layer_idx",
    ),
    "GPT-NeoX": (
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "hidden_act",
        "hidden_dropout",
        "attention_dropout",
        "layer_norm_eps",
        "rotary_pct",
        "rotary_emb_base",
        "use_parallel_residual",
        "attention_bias",
    ),
    "both": ("initializer_range", "tie_word_embeddings"),
}


def _override(architecture: str, text: str) -> Any:
    return field(default=None, metadata={"help": f"{text} ({architecture}; by default the preset's)."})


@dataclass
class ModelArguments:
    """A preset and changes to it, in the names of `GPT2Config` and `GPTNeoXConfig`.

    Raises:
        ConfigError: A dropout outside [0, 1) or a size below 1.
    """

    _argument_group_name = "model"

    preset: str = field(
        default="gpt2-124m",
        metadata={"help": "A model of the table that `llmforge plan --list_presets` prints."},
    )
    n_layer: int | None = _override("GPT-2", "Number of layers")
    n_head: int | None = _override("GPT-2", "Number of attention heads")
    n_embd: int | None = _override("GPT-2", "Width of the embeddings and hidden states")
    n_inner: int | None = _override("GPT-2", "Width of the feed-forward layers, 4 * n_embd if not given")
    n_positions: int | None = _override("GPT-2", "Longest sequence the model has positions for")
    activation_function: str | None = _override("GPT-2", "Activation of the feed-forward layers")
    resid_pdrop: float | None = _override("GPT-2", "Dropout of the residual branches")
    embd_pdrop: float | None = _override("GPT-2", "Dropout of the embeddings")
    attn_pdrop: float | None = _override("GPT-2", "Dropout of the attention weights")
    layer_norm_epsilon: float | None = _override("GPT-2", "Epsilon of the layer norms")
    scale_attn_by_inverse_layer_idx: bool | None = _override("GPT-2", "Scale attention by 1 / (layer + 1)")
    num_hidden_layers: int | None = _override("GPT-NeoX", "Number of layers")
    num_attention_heads: int | None = _override("GPT-NeoX", "Number of attention heads")
    hidden_size: int | None = _override("GPT-NeoX", "Width of the hidden states")
    intermediate_size: int | None = _override("GPT-NeoX", "Width of the feed-forward layers, 4 * hidden_size if not given")
    max_position_embeddings: int | None = _override("GPT-NeoX", "Longest sequence the model has positions for")
    hidden_act: str | None = _override("GPT-NeoX", "Activation of the feed-forward layers")
    hidden_dropout: float | None = _override("GPT-NeoX", "Dropout of the residual branches")
    attention_dropout: float | None = _override("GPT-NeoX", "Dropout of the attention weights")
    layer_norm_eps: float | None = _override("GPT-NeoX", "Epsilon of the layer norms")
    rotary_pct: float | None = _override("GPT-NeoX", "Share of each head that is rotated")
    rotary_emb_base: float | None = _override("GPT-NeoX", "Base of the rotary frequencies")
    use_parallel_residual: bool | None = _override("GPT-NeoX", "Attention and feed-forward side by side")
    attention_bias: bool | None = _override("GPT-NeoX", "Biases in the attention projections")
    initializer_range: float | None = _override("both", "Standard deviation of the initial weights")
    tie_word_embeddings: bool | None = _override("both", "Share the input and output embeddings")

    def __post_init__(self) -> None:
        for name, value in self.overrides().items():
            if name.endswith(("pdrop", "dropout")) and not 0 <= value < 1:
                raise ConfigError(f"--{name} {value} is no dropout.", "Give a number from 0 to below 1.")
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ConfigError(f"--{name} {value} is too small.", "Give a whole number of at least 1.")

    def overrides(self, family: str | None = None) -> dict[str, Any]:
        """The fields that were given, of one family (``GPT-2``, ``GPT-NeoX``, ``both``) or of all."""
        names = FIELDS[family] if family else [name for group in FIELDS.values() for name in group]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
