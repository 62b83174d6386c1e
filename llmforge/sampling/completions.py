"""Completions of prompts, as documents went on in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError
from llmforge.sharding import is_sharded
from llmforge.tasks.prompts import Prompt, cut_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Completion:
    """What a model made of a prompt.

    Attributes:
        text: Without the prompt, without special tokens, and up to a stop string.
        tokens: Produced, the end of text included.
        ended: By ``end of text``, ``stop string`` or ``length``; ``no room`` where the prompt fills the model's positions.
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
    """Go on from ids, as far as the model's positions allow."""
    return continue_batch(model, tokenizer, [ids], args, seed, on_text)[0]


def continue_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    args: GenerationArguments,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> list[Completion]:
    """Go on from the ids of several prompts at once.

    Without sampling what comes of a prompt depends on no other one, up to rounding.

    Args:
        prompts: Each leaves room for ``max_new_tokens`` in the model's positions, unless it is alone.
        seed: Of all of them together.
        on_text: As `completions`; for a single prompt. A search with beams has its text at its end only.
    """
    import torch

    longest = max(map(len, prompts))
    most = min(args.max_new_tokens, model.config.max_position_embeddings - longest)
    if most < 1:
        return [Completion("", 0, "no room") for _ in prompts]
    settings: dict[str, Any] = {"do_sample": args.samples, "num_beams": args.num_beams}
    if args.samples:
        settings |= {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
    added = tokenizer.get_added_vocab() if args.stop_strings else {}
    # A stop that is a token of its own may be a special one, which no text shows.
    ends = [tokenizer.eos_token_id, *(added[stop] for stop in args.stop_strings if stop in added)]
    told = _Told(tokenizer, longest, args.stop_strings, ends, on_text)
    if args.stop_strings or on_text is not None:
        settings["stopping_criteria"] = [told]
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            padding = [longest - len(ids) for ids in prompts]  # on the left, where the mask hides it
            filled = [[tokenizer.eos_token_id] * count + ids for count, ids in zip(padding, prompts, strict=True)]
            seen = [[0] * count + [1] * (longest - count) for count in padding]
            produced = model.generate(
                torch.tensor(filled, device=model.device),
                attention_mask=torch.tensor(seen, device=model.device),
                max_new_tokens=most,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                synced_gpus=is_sharded(model),  # a process that ended first goes on for the others, who need its pieces
                **settings,
            )[:, longest:].tolist()
    finally:
        model.train(was_training)
    return [told.end(ids) for ids in produced]


class _Told:
    """Follows completions as they are made: stops each at a stop string, and passes the text of a single one on.

    A criterion for `generate`, which calls it after every token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        start: int,
        stops: Sequence[str],
        ends: Sequence[int],
        on_text: Callable[[str], None] | None,
    ):
        self.tokenizer, self.start, self.stops, self.on_text = tokenizer, start, stops, on_text
        self._ends = ends  # ids that end a completion: the end of text, and stop strings that are tokens
        self._passed = 0  # characters

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        found = [self._text(ids) for ids in input_ids[:, self.start :].tolist()]
        if len(found) == 1 and not found[0][1]:
            text = found[0][0]
            # What may yet become another character, or a stop string, waits.
            held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
            self._pass_on(text[: len(text) - held].rstrip("\ufffd"))
        return torch.tensor([stopped for _, stopped in found], device=input_ids.device)

    def _text(self, ids: list[int]) -> tuple[str, bool]:
        """The text of a completion up to a stop string, and whether it came to one."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text, bool(places)

    def _pass_on(self, text: str) -> None:
        if self.on_text is not None and len(text) > self._passed:
            self.on_text(text[self._passed :])
            self._passed = len(text)

    def end(self, ids: list[int]) -> Completion:
        """A completion that is made; what is left of its text is passed on.

        Args:
            ids: With padding behind its end where others of its batch are longer.
        """
        text, stopped = self._text(ids)
        self._pass_on(text)
        over = {*self._ends, self.tokenizer.pad_token_id}
        length = next((place for place, token in enumerate(ids) if token in over), len(ids))
        last = next((token for token in ids[length : length + 1] if token in self._ends), None)
        stopped |= last in self._ends[1:]
        ended = "stop string" if stopped else "length" if last is None else "end of text"
        return Completion(text, length + (last is not None), ended)


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
