"""Which few parameters LoRA trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmforge.errors import ConfigError

#: By ``model_type``: the linear layers of a block, attention's and the feed-forward's. An adapter on all of them is what comes
#: closest to training everything (Dettmers et al. 2023, QLoRA, section 4).
TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


@dataclass
class LoraArguments:
    """Low-rank adapters (Hu et al. 2021) instead of training every weight.

    Raises:
        ConfigError: A rank, scale or dropout that no adapter can have, or settings without ``--lora``.
    """

    _argument_group_name = "lora"

    lora: bool = field(default=False, metadata={"help": "Train low-rank adapters, and leave the model's own weights alone."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: float = field(default=32.0, metadata={"help": "Their output is scaled by this over the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the linear layers that get one; by default all in the blocks."},
    )
    merge: bool = field(default=False, metadata={"help": "Add the adapters to the weights at the end: final/ is a whole model."})

    def __post_init__(self) -> None:
        if self.lora_r < 1:
            raise ConfigError(f"--lora_r {self.lora_r} is too small.", "Give a whole number of at least 1.")
        if not self.lora_alpha > 0:
            raise ConfigError(f"--lora_alpha {self.lora_alpha} is no scale.", "Give a number above 0.")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"--lora_dropout {self.lora_dropout} is no dropout.", "Give a number from 0 to below 1.")
        if not self.lora:
            for name, item in type(self).__dataclass_fields__.items():
                given = getattr(self, name)
                if name != "lora" and given != (item.default if name != "lora_targets" else []):
                    raise ConfigError(f"--{name} {given} has no effect without adapters.", "Give --lora too.")

    def targets(self, model_type: str) -> list[str]:
        """Names of the layers that get an adapter, in a model of that type."""
        return [name for item in self.lora_targets for name in item.split(",") if name] or list(TARGETS[model_type])
