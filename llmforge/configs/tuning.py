"""`ForgeTrainingArguments` with the defaults of a fine-tuning; imports transformers, as that module does."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from llmforge.configs.training import ForgeTrainingArguments

#: By whether adapters are trained or all weights.
LEARNING_RATES = {True: 2e-4, False: 5e-5}


@dataclass
class FinetuneTrainingArguments(ForgeTrainingArguments):
    """Every field of `ForgeTrainingArguments`; only these defaults differ.

    `optim` adamw_torch_fused, for published models were trained with AdamW; `learning_rate` 5e-5, with adapters 2e-4;
    `weight_decay` 0.01; `warmup_steps` 0.05 of all steps; `eval_strategy` and `save_strategy` epoch.
    """

    optim: str = field(default="adamw_torch_fused", metadata={"help": "The optimizer: muon, or any of Trainer's own names."})  # type: ignore[assignment]
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "The highest learning rate; by default 5e-5, with --lora 2e-4, with muon 0.02 / sqrt(width)."},
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, on 2-D weights only."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    eval_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: SaveStrategy | str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})

    #: Whether adapters are trained.
    adapts = False

    def choose_learning_rate(self, width: int) -> float:
        """`learning_rate`, filled in where none was given.

        Args:
            width: Of the model's hidden states.
        """
        if self.learning_rate is None or self.learning_rate == self._derived_rate:
            chosen = float(f"{0.02 / width**0.5:.2g}") if self.optim == "muon" else LEARNING_RATES[self.adapts]
            self.learning_rate = self._derived_rate = chosen
        return self.learning_rate
