"""One table of presets, and from a preset to a Hugging Face model that trains right."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmforge.configs.model import ModelArguments
from llmforge.errors import ConfigError
from llmforge.losses import install_losses

if TYPE_CHECKING:
    from torch import nn
    from transformers import GPT2Config, GPTNeoXConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Embedding rows are a multiple of this, so that matrix kernels run on whole tiles.
ROW_MULTIPLE = 64


@dataclass(frozen=True)
class Preset:
    """A model shape; its name is its parameter count at its reference vocabulary.

    Attributes:
        family: ``GPT-2`` or ``GPT-NeoX``.
        layers: Transformer blocks.
        width: Of the hidden states.
        heads: Attention heads.
        positions: Longest sequence.
        vocab_size: Reference vocabulary: 50,257 for GPT-2, 50,304 for GPT-NeoX, 8,192 for the smallest.
    """

    family: str
    layers: int
    width: int
    heads: int
    positions: int
    vocab_size: int


# Shapes: GPT-2 124M to 1.5B as published by OpenAI (2019); GPT-NeoX 160M, 410M, 1B and 1.4B as
# Pythia (Biderman et al., 2023); the others fill the gaps. All checked against the count below.
PRESETS: dict[str, Preset] = {
    "gpt2-10m": Preset("GPT-2", 10, 256, 8, 1024, 8192),
    "gpt2-50m": Preset("GPT-2", 8, 512, 8, 1024, 50257),
    "gpt2-124m": Preset("GPT-2", 12, 768, 12, 1024, 50257),
    "gpt2-355m": Preset("GPT-2", 24, 1024, 16, 1024, 50257),
    "gpt2-774m": Preset("GPT-2", 36, 1280, 20, 1024, 50257),
    "gpt2-1.5b": Preset("GPT-2", 48, 1600, 25, 1024, 50257),
    "neox-10m": Preset("GPT-NeoX", 8, 256, 8, 2048, 8192),
    "neox-160m": Preset("GPT-NeoX", 12, 768, 12, 2048, 50304),
    "neox-410m": Preset("GPT-NeoX", 24, 1024, 16, 2048, 50304),
    "neox-1b": Preset("GPT-NeoX", 16, 2048, 16, 2048, 50304),
    "neox-1.2b": Preset("GPT-NeoX", 20, 2048, 16, 2048, 50304),
    "neox-1.4b": Preset("GPT-NeoX", 24, 2048, 16, 2048, 50304),
}


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ConfigError: There is none; the nearest name is given.
    """
    if name not in PRESETS:
        # Only what is one slip away: another size with a similar name is no guess to make.
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.85)
        hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(PRESETS)}; `llmforge plan --list_presets`."
        raise ConfigError(f"--preset {name}: no such preset.", hint)
    return PRESETS[name]


def embedding_rows(vocab_size: int) -> int:
    """`vocab_size` rounded up to a multiple of 64; the rows past it are never predicted."""
    return -(-vocab_size // ROW_MULTIPLE) * ROW_MULTIPLE


def build_config(
    args: ModelArguments, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> GPT2Config | GPTNeoXConfig:
    """The Hugging Face config of a preset with its overrides.

    Args:
        args: Preset and overrides.
        vocab_size: Rows of the embedding table.
        tokenizer: Where the ids of bos, eos and pad come from.

    Raises:
        ConfigError: An unknown preset, a field of the other architecture, or sizes that do not fit together.
    """
    import transformers
    import transformers.activations

    preset = get_preset(args.preset)
    other = "GPT-NeoX" if preset.family == "GPT-2" else "GPT-2"
    for name in args.overrides(other):
        raise ConfigError(
            f"--{name} is a field of {other}, and --preset {args.preset} is {preset.family}.", "See --help for its own fields."
        )
    changes = args.overrides(preset.family) | args.overrides("both")
    ids: dict[str, Any] = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    if preset.family == "GPT-2":
        shape: dict[str, Any] = {
            "n_layer": preset.layers,
            "n_embd": preset.width,
            "n_head": preset.heads,
            "n_positions": preset.positions,
        }
        # transformers' default for GPT-2 is 0.1: worse where no row is seen twice (docs/benchmarks.md), and slower.
        shape |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config_class: Any = transformers.GPT2Config
    else:
        shape = {
            "num_hidden_layers": preset.layers,
            "hidden_size": preset.width,
            "num_attention_heads": preset.heads,
            "max_position_embeddings": preset.positions,
        }
        shape["intermediate_size"] = 4 * changes.get("hidden_size", preset.width)
        config_class = transformers.GPTNeoXConfig
        rope = {"partial_rotary_factor": changes.pop("rotary_pct", 0.25), "rope_theta": changes.pop("rotary_emb_base", 10000.0)}
        changes["rope_parameters"] = {"rope_type": "default", **rope}
    for name in ("activation_function", "hidden_act"):
        if name in changes and changes[name] not in transformers.activations.ACT2FN:
            close = difflib.get_close_matches(changes[name], transformers.activations.ACT2FN, n=1)
            raise ConfigError(
                f"--{name} {changes[name]} is no activation.", f"Did you mean {close[0]}?" if close else "Try gelu_new."
            )
    width_name, heads_name = ("n_embd", "n_head") if preset.family == "GPT-2" else ("hidden_size", "num_attention_heads")
    width, heads = (changes.get(width_name, preset.width), changes.get(heads_name, preset.heads))
    if width % heads:
        raise ConfigError(
            f"--{width_name} {width} is not a multiple of --{heads_name} {heads}.", "Each head gets an equal share."
        )
    return config_class(vocab_size=vocab_size, use_cache=True, **shape | changes, **ids)


def count_parameters(config: GPT2Config | GPTNeoXConfig) -> int:
    """Parameters of the model that `config` describes, tied ones once, by arithmetic.

    A block of width d and inner width f has 4d² + 2df weights, 5d + f biases and two layer
    norms of 2d; checked against the models themselves in the tests.
    """
    d, inner = config.hidden_size, _inner_width(config)
    if config.model_type == "gpt2":
        attention_biases, positions = 4 * d, config.n_positions * d
    else:
        attention_biases, positions = 4 * d if config.attention_bias else 0, 0
    vectors = attention_biases + inner + d + 4 * d
    embeddings = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    return embeddings + positions + count_hidden(config) + config.num_hidden_layers * vectors + 2 * d


def count_hidden(config: GPT2Config | GPTNeoXConfig) -> int:
    """Weights in the matrices of the blocks, which are what Muon is for, by arithmetic."""
    d = config.hidden_size
    return config.num_hidden_layers * (4 * d * d + 2 * d * _inner_width(config))


def _inner_width(config: GPT2Config | GPTNeoXConfig) -> int:
    return config.n_inner or 4 * config.hidden_size if config.model_type == "gpt2" else config.intermediate_size


def flops_per_token(model: nn.Module, length: int) -> float:
    """Floating point operations that training on one token of a row of `length` takes, forward and backward.

    Six for each weight that multiplies, the output head included and embedding tables left out,
    and 12 · layers · width · length for attention over the whole row (Chowdhery et al. 2022, PaLM,
    appendix B; packed rows, whose documents do not see each other, take less).
    """
    from torch.nn import Embedding

    tables = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:  # a tied one multiplies as well
        tables.discard(id(head.weight))
    weights = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in tables)
    config = getattr(model, "config", None)
    layers, width = (getattr(config, name, 0) for name in ("num_hidden_layers", "hidden_size"))
    return 6.0 * weights + 12.0 * layers * width * length


def build_model(
    args: ModelArguments, tokenizer: PreTrainedTokenizerBase, block_size: int | None = None, seed: int = 42
) -> PreTrainedModel:
    """A freshly initialised model in fp32, with llmforge's loss in its `forward` and its attention for packed rows.

    Args:
        args: Preset and overrides.
        tokenizer: Sets the vocabulary (rows are rounded up to a multiple of 64) and the special ids.
        block_size: Length of the rows it will be trained on, if known.
        seed: Of the initial weights.

    Returns:
        A `GPT2LMHeadModel` or `GPTNeoXForCausalLM`. Its generation config never lets it
        produce padding or a row that stands for no token.

    Raises:
        ConfigError: As `build_config`, or `block_size` is longer than the model's positions.
    """
    import transformers

    from llmforge.attention import install_attention  # imports torch, which listing presets need not

    config = build_config(args, embedding_rows(len(tokenizer)), tokenizer)
    check_block_size(config, block_size)
    transformers.set_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    suppress_spare(model, tokenizer)
    return install_attention(install_losses(model))


def suppress_spare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation never produce padding or a row that stands for no token."""
    spare = list(range(len(tokenizer), model.config.vocab_size))
    pad = [] if tokenizer.pad_token_id in (None, tokenizer.eos_token_id) else [tokenizer.pad_token_id]
    model.generation_config.suppress_tokens = pad + spare


def compile_blocks(model: PreTrainedModel, backend: str | None = None, mode: str | None = None) -> None:
    """Compile each transformer block of `model` in place; parameters keep their names.

    Args:
        model: GPT-2 or GPT-NeoX.
        backend: Of `torch.compile`; inductor, the default, needs a C++ compiler on a CPU and Triton on a GPU.
        mode: Of `torch.compile`.
    """
    from torch import nn

    if hasattr(model, "get_base_model"):  # of peft, with its adapters in the blocks
        model = model.get_base_model()
    for blocks in model.base_model.children():
        for block in blocks if isinstance(blocks, nn.ModuleList) else ():
            block.compile(backend=backend or "inductor", mode=mode)


def check_block_size(config: GPT2Config | GPTNeoXConfig, block_size: int | None) -> None:
    """Refuse rows that are longer than the model has positions for.

    Raises:
        ConfigError: They are.
    """
    if block_size is not None and block_size > config.max_position_embeddings:
        name = "n_positions" if config.model_type == "gpt2" else "max_position_embeddings"
        raise ConfigError(
            f"--block_size {block_size} is longer than the model's {config.max_position_embeddings} positions.",
            f"Give a shorter block, or --{name} {block_size}.",
        )
