"""What the model writes, at every evaluation."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from llmforge.configs.generation import GenerationArguments
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import SAMPLES
from llmforge.sampling.completions import complete
from llmforge.sharding import is_sharded
from llmforge.storage.records import append_json_line, keep_json_lines


class Samples(TrainerCallback):
    """Completes the prompts at every evaluation, in every strategy; works with a plain `Trainer` too.

    Into ``samples.jsonl``, one line a prompt and strategy, and under `ForgeTrainer` into the
    trackers as ``samples/<strategy>``. The random state of the training is untouched, and a
    file that cannot be written does not end the run.

    Args:
        tokenizer: The model's tokenizer.
        args: Prompts, strategies and sampling settings.
        folder: Where the file goes; by default the Trainer's output folder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, args: GenerationArguments, folder: Path | None = None):
        self.tokenizer = tokenizer
        self.settings = args
        self.folder = folder
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Called by `ForgeTrainer` with itself."""
        self._trainer = trainer

    def _path(self, args: TrainingArguments) -> Path:
        return (self.folder or Path(args.output_dir or ".")) / SAMPLES

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            step = state.global_step
            keep_json_lines(self._path(args), lambda line: line.get("step", 0) <= step and not line.get("final"))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not math.isfinite((metrics or {}).get("eval_loss", 0.0)):
            return  # there is nothing to sample from, and to try would break a GPU's context
        # Before the first step there is only noise to show.
        if not self.settings.prompts or model is None or state.global_step == 0:
            return
        if not (state.is_world_process_zero or is_sharded(model)):  # of a sharded one every process has to run its piece
            return
        texts = {
            strategy: complete(model, self.tokenizer, self.settings.prompts, settings, seed=args.seed)
            for strategy, settings in self.settings.by_strategy().items()
        }
        if not state.is_world_process_zero:
            return
        try:
            self._write(args, state, texts)
        except OSError as error:
            logger.warning("the samples could not be written: %s", error)

    def _write(self, args: TrainingArguments, state: TrainerState, texts: dict[str, list[str]]) -> None:
        for strategy, settings in self.settings.by_strategy().items():
            shown = []
            for prompt, text in zip(self.settings.prompts, texts[strategy], strict=True):
                append_json_line(self._path(args), sample_line(state.global_step, prompt, strategy, settings, text))
                shown.append(f"{prompt}▶{text}")
            if self._trainer is not None:
                self._trainer.trackers.text(f"samples/{strategy}", "\n\n".join(shown), state.global_step)


def sample_line(step: int, prompt: str, strategy: str, settings: GenerationArguments, text: str, **more: Any) -> dict[str, Any]:
    """One line of ``samples.jsonl``: step, prompt, strategy, its settings, text."""
    used = {"max_new_tokens": settings.max_new_tokens, "do_sample": settings.samples}
    if settings.num_beams > 1:
        used |= {"num_beams": settings.num_beams}
    elif settings.samples:
        used |= {name: value for name, value in asdict(settings).items() if name in ("temperature", "top_p", "top_k")}
    return {"step": step, **more, "prompt": prompt, "strategy": strategy, "settings": used, "text": text}
