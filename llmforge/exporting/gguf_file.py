"""A model as one GGUF file, the format of llama.cpp.

What differs from the Hugging Face folder, each point of which the check after an export would find:

- GPT-2's projections are kept the other way round: ``c_attn``, ``c_proj`` and ``c_fc`` are transposed
- GPT-NeoX keeps query, key and value head by head, ``[heads, 3, width]``; llama.cpp wants ``[3, heads, width]``
- rows of the embedding table that stand for no token are left out
- vectors and GPT-2's positions stay in fp32, and a row that is no multiple of 32 long cannot be q8_0 and is f16
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from llmforge.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: ``--dtype`` → how matrices are kept, and what the file says of itself.
KINDS = {
    "f32": (Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_ARCHITECTURES = {"gpt2": gguf.MODEL_ARCH.GPT2, "gpt_neox": gguf.MODEL_ARCH.GPTNEOX}
#: llama.cpp computes GELU by its tanh formula in both architectures; the exact one differs by less than 0.0005.
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_TABLES = ("wte.weight", "embed_in.weight", "embed_out.weight", "lm_head.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


@dataclass
class About:
    """What the file says of the model to people.

    Attributes:
        name: Of the model.
        description: Where it is from, and how good it is.
        license: Of the model, as Hugging Face abbreviates it; empty where it is not known.
        task: The text of the task file that it was fine-tuned for, kept as ``llmforge.task``; empty for none.
        chat_template: In Jinja, for programs that chat; empty for none.
    """

    name: str
    description: str = ""
    license: str = ""
    task: str = ""
    chat_template: str = ""


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: Kind
    values: Callable[[], np.ndarray]


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, dtype: str, about: About) -> list[str]:
    """Write `model` and `tokenizer` to `path`, a tensor at a time.

    Args:
        model: `GPT2LMHeadModel` or `GPTNeoXForCausalLM`.
        tokenizer: Its tokenizer, a byte-level BPE with GPT-2's words.
        dtype: One of `KINDS`.
        about: What the file says of the model.

    Returns:
        The tensors that could not be kept in `dtype` and are f16 instead.

    Raises:
        ConfigError: llama.cpp cannot compute such a model or cut text into such words, or a weight is too large for f16.
        OSError: The disk could not take it.
    """
    config = model.config
    _refuse_unknown(config)
    kind, file_type = KINDS[dtype]
    architecture = _ARCHITECTURES[config.model_type]
    tensors = _tensors(model, len(_vocabulary(tokenizer)), architecture, kind)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _describe(writer, config, about, file_type)
        _add_tokenizer(writer, tokenizer)
        for tensor in tensors:
            shape = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_converted(tensor))
        writer.flush()
    except OSError as error:
        if error.errno is None:  # numpy says how much it wrote and not why that was less
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        writer.close()
    return [tensor.name for tensor in tensors if tensor.kind != kind and tensor.kind != Kind.F32]


def _refuse_unknown(config: Any) -> None:
    """Refuse what llama.cpp would compute otherwise, whatever the file says."""
    rope = getattr(config, "rope_parameters", None) or {}
    given = {
        "activation_function" if config.model_type == "gpt2" else "hidden_act": (
            config.activation_function if config.model_type == "gpt2" else config.hidden_act,
            _ACTIVATIONS,
        ),
        "scale_attn_weights": (getattr(config, "scale_attn_weights", True), (True,)),
        "scale_attn_by_inverse_layer_idx": (getattr(config, "scale_attn_by_inverse_layer_idx", False), (False,)),
        "add_cross_attention": (getattr(config, "add_cross_attention", False), (False,)),
        "rope_type": (rope.get("rope_type", "default"), ("default",)),
    }
    for name, (value, known) in given.items():
        if value not in known:
            raise ConfigError(
                f"The model has {name} {value}, which llama.cpp does not compute in {config.model_type}.",
                "Use --format safetensors.",
            )


def _describe(writer: gguf.GGUFWriter, config: Any, about: About, file_type: gguf.LlamaFileType) -> None:
    writer.add_type("model")
    writer.add_name(about.name)
    if about.description:
        writer.add_description(about.description)
    if about.license:
        writer.add_license(about.license)
    if about.task:
        writer.add_string("llmforge.task", about.task)
    if about.chat_template:
        writer.add_chat_template(about.chat_template)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_parallel_residual(config.use_parallel_residual)
    rope = config.rope_parameters
    writer.add_rope_dimension_count(
        int(config.hidden_size // config.num_attention_heads * rope.get("partial_rotary_factor", 1.0))
    )
    writer.add_rope_freq_base(float(rope["rope_theta"]))


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """The token of each id, None where an id has none."""
    known = tokenizer.get_vocab()
    tokens: list[str | None] = [None] * (max(known.values()) + 1)
    for token, index in known.items():
        tokens[index] = token
    return tokens


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    split, model = description["pre_tokenizer"] or {}, description["model"]
    like_gpt2 = (split.get("type"), split.get("add_prefix_space"), split.get("use_regex", True)) == ("ByteLevel", False, True)
    normalizer = (description["normalizer"] or {}).get("type")
    if not like_gpt2 or model["type"] != "BPE" or model.get("ignore_merges") or normalizer not in (None, "NFC"):
        raise ConfigError(
            "The tokenizer cuts text into other words than GPT-2's, and llama.cpp has no name for them.",
            "Use --format safetensors.",
        )
    tokens = _vocabulary(tokenizer)
    types = [gguf.TokenType.UNUSED if token is None else gguf.TokenType.NORMAL for token in tokens]
    for added in description["added_tokens"]:
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"[unused{index}]" if token is None else token for index, token in enumerate(tokens)])
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    # Documents began with it in training, and `llmforge generate` begins prompts with it.
    writer.add_add_bos_token(True)


def _tensors(model: PreTrainedModel, vocabulary: int, architecture: gguf.MODEL_ARCH, kind: Kind) -> list[_Tensor]:
    config = model.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    found = []
    for name, tensor in model.state_dict().items():
        if config.tie_word_embeddings and name in _HEADS and config.model_type == "gpt2":
            continue  # llama.cpp takes the embedding table where there is no head, but asks for one in GPT-NeoX
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        shape = list(tensor.shape)
        if name.endswith(_TABLES):
            shape[0] = vocabulary
        elif config.model_type == "gpt2" and name.endswith(_TRANSPOSED):
            shape.reverse()
        found.append(_Tensor(target, tuple(shape), _kind_of(target, shape, kind), _maker(name, tensor, config, vocabulary)))
    if config.model_type == "gpt_neox" and not config.attention_bias:  # llama.cpp asks for them
        width = config.hidden_size
        for layer in range(config.num_hidden_layers):
            for part, size in (("attn_qkv", 3 * width), ("attn_output", width)):
                found.append(_Tensor(f"blk.{layer}.{part}.bias", (size,), Kind.F32, partial(np.zeros, size, np.float32)))
    return found


def _kind_of(target: str, shape: list[int], kind: Kind) -> Kind:
    if len(shape) < 2 or target.startswith("position_embd"):
        return Kind.F32
    return Kind.F16 if kind == Kind.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _maker(name: str, tensor: torch.Tensor, config: Any, vocabulary: int) -> Callable[[], np.ndarray]:
    def values() -> np.ndarray:
        array: np.ndarray = tensor.detach().float().cpu().numpy()
        if name.endswith(_TABLES):
            return array[:vocabulary]
        if config.model_type == "gpt2" and name.endswith(_TRANSPOSED):
            return array.T
        if "query_key_value" in name:
            heads = config.num_attention_heads
            return array.reshape(heads, 3, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
        return array

    return values


def _converted(tensor: _Tensor) -> np.ndarray:
    values = np.ascontiguousarray(tensor.values())
    if tensor.kind == Kind.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError(f"{tensor.name} has values beyond what f16 holds.", "Give --dtype bf16 or f32.")
    return gguf.quantize(values, tensor.kind)
