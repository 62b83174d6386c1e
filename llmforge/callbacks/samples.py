"""What the model writes, at every evaluation."""

from __future__ import annotations

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
from llmforge.generate import complete
from llmforge.runtime.run_folder import SAMPLES
from llmforge.storage import append_json_line, keep_json_lines


class Samples(TrainerCallback):
    """Completes the prompts at every evaluation, into ``samples.jsonl``; works with a plain `Trainer` too.

    Args:
        tokenizer: The model's tokenizer.
        args: Prompts and sampling settings.
        folder: Where the file goes; by default the Trainer's output folder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, args: GenerationArguments, folder: Path | None = None):
        self.tokenizer = tokenizer
        self.settings = args
        self.folder = folder

    def _path(self, args: TrainingArguments) -> Path:
        return (self.folder or Path(args.output_dir or ".")) / SAMPLES

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            step = state.global_step
            keep_json_lines(self._path(args), lambda line: line.get("step", 0) <= step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        # Before the first step there is only noise to show.
        if not state.is_world_process_zero or not self.settings.prompts or model is None or state.global_step == 0:
            return
        texts = complete(model, self.tokenizer, self.settings.prompts, self.settings, seed=args.seed)
        settings = {name: value for name, value in asdict(self.settings).items() if name != "prompts"}
        for prompt, text in zip(self.settings.prompts, texts, strict=True):
            append_json_line(self._path(args), {"step": state.global_step, "prompt": prompt, "settings": settings, "text": text})
