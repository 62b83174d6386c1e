"""Completions of prompts, as documents went on in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError
from llmforge.tasks.prompts import Prompt, cut_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Completion:
    """What a model made of a prompt.

    Attributes:
        text: Without the prompt, without special tokens, and up to a stop string.
        tokens: Produced, the end of text included.
        ended: By ``end of text``, ``stop string`` or ``length``.
    """

    text: str
    tokens: int
    ended: str


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
        args: Sampling settings and stop strings.
        seed: Same seed, same text on the same device.

    Returns:
        The completions, without the prompts and without special tokens.

    Raises:
        ConfigError: A prompt does not leave room for one token in the model's positions.
    """
    return [one.text for one in completions(model, tokenizer, prompts, args, seed)]


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    args: GenerationArguments | None = None,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> list[Completion]:
    """As `complete`, with how long each completion is and why it ended.

    Args:
        on_text: Is given each completion as it is made, piece by piece; together the pieces are its text.

    Raises:
        ConfigError: As `complete`.
    """
    check_prompts(prompts, tokenizer, model.config.max_position_embeddings)
    args = args or GenerationArguments()
    encoded = (encode_prompt(prompt, tokenizer) for prompt in prompts)
    return [continue_ids(model, tokenizer, ids, args, seed + number, on_text) for number, ids in enumerate(encoded)]


def continue_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    args: GenerationArguments,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> Completion:
    """Go on from ids, which fill fewer than all of the model's positions."""
    import torch

    settings: dict[str, Any] = {"do_sample": args.do_sample}
    if args.do_sample:
        settings |= {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
    added = tokenizer.get_added_vocab() if args.stop_strings else {}
    # A stop that is a token of its own may be a special one, which no text shows.
    ends = [tokenizer.eos_token_id, *(added[stop] for stop in args.stop_strings if stop in added)]
    told = _Told(tokenizer, len(ids), args.stop_strings, on_text)
    if args.stop_strings or on_text is not None:
        settings["stopping_criteria"] = [told]
    most = min(args.max_new_tokens, model.config.max_position_embeddings - len(ids))
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            given = torch.tensor([ids], device=model.device)
            produced = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=most,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                **settings,
            )[0, len(ids) :].tolist()
    finally:
        model.train(was_training)
    text = told.end(produced)
    last = produced[-1] if produced else None
    stopped = told.stopped or last in ends[1:]
    ended = "stop string" if stopped else "end of text" if last == tokenizer.eos_token_id else "length"
    return Completion(text, len(produced), ended)


class _Told:
    """Follows a completion as it is made: passes its text on, and stops it at a stop string.

    A criterion for `generate`, which calls it after every token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, start: int, stops: Sequence[str], on_text: Callable[[str], None] | None
    ):
        self.tokenizer, self.start, self.stops, self.on_text = tokenizer, start, stops, on_text
        self.stopped = False
        self._passed = 0  # characters

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        text = self._text(input_ids[0, self.start :].tolist())
        if not self.stopped:
            # What may yet become another character, or a stop string, waits.
            held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
            self._pass_on(text[: len(text) - held].rstrip("\ufffd"))
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device, dtype=torch.bool)

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        return text[: min(places)] if places else text

    def _pass_on(self, text: str) -> None:
        if self.on_text is not None and len(text) > self._passed:
            self.on_text(text[self._passed :])
            self._passed = len(text)

    def end(self, ids: list[int]) -> str:
        """The text of a completion that is made, without its stop string; what is left of it is passed on."""
        text = self._text(ids)
        self._pass_on(text)
        return text


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's ids after the start context that documents had in training.

    Args:
        prompt: A `Prompt` of a task is encoded as the task's rows were; any other text is plain text, whatever it looks like.
        tokenizer: The model's.
    """
    ids = [tokenizer.bos_token_id]
    asked = prompt if isinstance(prompt, Prompt) else Prompt([prompt])
    for pieces in cut_parts(asked.parts, tokenizer.get_added_vocab() if asked.written else {}, asked.written):
        for piece in pieces:
            plain = isinstance(piece, str)
            ids += (
                tokenizer(piece, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
                if plain
                else [piece]
            )
    return ids


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
        length = len(encode_prompt(prompt, tokenizer))
        if length >= positions:
            raise ConfigError(
                f"The prompt {prompt[:40]!r}… is {length} tokens long; the model has {positions} positions.", "Shorten it."
            )
