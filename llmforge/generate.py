"""Text from a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    args: GenerationArguments | None = None,
    seed: int = 0,
) -> list[str]:
    """Complete each prompt.

    A prompt is given the start context that documents had in training, the end-of-text token,
    and is sampled by itself: what comes out depends on no other prompt. The random state of
    the caller is untouched, so that sampling during training does not change the training.

    Args:
        model: A causal language model; its mode (train or eval) is restored.
        tokenizer: Its tokenizer.
        prompts: Texts to go on from.
        args: Sampling settings.
        seed: Same seed, same text on the same device.

    Returns:
        The completions, without the prompts and without special tokens.

    Raises:
        ConfigError: A prompt does not leave room for one token in the model's positions.
    """
    import torch

    args = args or GenerationArguments()
    settings: dict[str, float | bool | int] = {"do_sample": args.do_sample}
    if args.do_sample:
        settings |= {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
    check_prompts(prompts, tokenizer, model.config.max_position_embeddings)
    positions = model.config.max_position_embeddings
    was_training = model.training
    model.eval()
    completions = []
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for number, prompt in enumerate(prompts):
                ids = _encode(prompt, tokenizer)
                torch.manual_seed(seed + number)
                given = torch.tensor([ids], device=model.device)
                produced = model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    max_new_tokens=min(args.max_new_tokens, positions - len(ids)),
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    use_cache=True,
                    **settings,
                )
                completions.append(tokenizer.decode(produced[0, len(ids) :], skip_special_tokens=True))
    finally:
        model.train(was_training)
    return completions


def _encode(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's ids after the start context that documents had in training."""
    return [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]]


def check_prompts(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, positions: int) -> None:
    """Refuse prompts that leave no room for a completion, before anything expensive starts.

    Args:
        prompts: Texts to go on from.
        tokenizer: The model's tokenizer.
        positions: How many tokens the model can see.

    Raises:
        ConfigError: A prompt and its start context fill all positions.
    """
    for prompt in prompts:
        length = len(_encode(prompt, tokenizer))
        if length >= positions:
            raise ConfigError(
                f"The prompt {prompt[:40]!r}… is {length} tokens long; the model has {positions} positions.", "Shorten it."
            )
