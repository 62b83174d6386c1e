"""What a fine-tuning starts from and what it leaves: a model whose tokens, dropout and adapters are as asked for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import set_seed

from llmforge.attention import install_attention
from llmforge.configs.finetune import DROPOUTS, FinetuneConfig
from llmforge.configs.lora import LoraArguments
from llmforge.configs.tokenizer import PAD
from llmforge.errors import ConfigError
from llmforge.losses import install_losses
from llmforge.models import embedding_rows, suppress_spare
from llmforge.pretrained.adapters import BASE_RECORD, base_record, save_adapter
from llmforge.pretrained.beside import Beside, beside_of
from llmforge.pretrained.folder import load_tokenizer
from llmforge.pretrained.loading import Pretrained, load_pretrained_model
from llmforge.runtime.logs import logger
from llmforge.tasks.files import published_template
from llmforge.tasks.task import TASK_FILE, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Start:
    """The model that a fine-tuning begins with.

    Attributes:
        given: As ``--from_pretrained`` has it.
        found: As it lies in its folder.
        tokenizer: With padding and the tokens that were added.
        known: Rows of the embedding table that stood for a token before.
        task: What the rows are for; None where plain text is trained on.
        used: Whether the model was made one to be trained (`tuned_model`), and is no more as it lies in its folder.
    """

    given: str
    found: Pretrained
    tokenizer: PreTrainedTokenizerBase
    known: int
    task: Task | None = None
    used: bool = False

    @property
    def base(self) -> str:
        """What an adapter's file says its model is: a folder, or a hub id."""
        return str(self.found.path.resolve()) if Path(self.given).expanduser().is_dir() else self.given


def load_start(config: FinetuneConfig) -> Start:
    """The model of ``--from_pretrained``, in fp32, with its tokenizer grown by padding and ``--add_tokens``.

    Raises:
        CheckpointError: It cannot be used, as `load_pretrained_model`.
        ConfigError: None is given.
    """
    given = config.finetune.from_pretrained
    if given is None:
        raise ConfigError("--from_pretrained is not given.", "Give the folder of the model to start from.")
    found = load_pretrained_model(given, flag="--from_pretrained")
    if config.finetune.from_scratch:
        found.model = _drawn_anew(found.model, config.training.seed)
    tokenizer = found.tokenizer
    known = max(tokenizer.get_vocab().values()) + 1
    grow_tokenizer(tokenizer, config.finetune.add_tokens)
    return Start(given, found, tokenizer, known)


def _drawn_anew(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with the weights that it would begin a pretraining with."""
    set_seed(seed)
    made = type(model)(model.config)
    made.generation_config = model.generation_config
    return made.eval()


def grow_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str] = ()) -> None:
    """Give a tokenizer padding of its own, where it has none, and `tokens`, which are matched whole in texts and prompts.

    Documents begin with the end of text in training, so that is the start of text from here on, also where a published
    tokenizer has another one: prompts begin with it.
    """
    from tokenizers import AddedToken

    there = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens if token not in there])
    for token in tokens:
        if token in there:
            logger.info("--add_tokens %s: the tokenizer has it already", token)
    tokenizer.bos_token = tokenizer.eos_token
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, known: int) -> None:
    """Make room for the tokens that `tokenizer` has beyond the first `known`.

    Each new row is the mean of the known ones, in the input table and in the output head, which may be one: the
    logit of a new token is then the mean of all. Rows drawn anew would often be far above those that training has
    pushed down, and take the probability from them (Hewitt 2021, "Initializing new word embeddings").

    Args:
        model: Tied or not.
        tokenizer: Grown.
        known: Rows that stood for a token before.
    """
    rows, needed = int(model.config.vocab_size), max(tokenizer.get_vocab().values()) + 1
    if needed > rows:
        model.resize_token_embeddings(embedding_rows(needed), mean_resizing=False)
    with torch.no_grad():
        tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())}
        for weight in tables.values():
            new = list(range(known, needed)) + list(range(max(rows, needed), len(weight)))
            if new:
                weight[new] = weight[:known].mean(0)
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    suppress_spare(model, tokenizer)


def set_dropout(model: PreTrainedModel, share: float) -> None:
    """Set every dropout of GPT-2 or GPT-NeoX, in the model and in its config."""
    for name in DROPOUTS[model.config.model_type]:
        setattr(model.config, name, share)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share  # GPT-NeoX's attention keeps a number


def tuned_model(start: Start, config: FinetuneConfig) -> Any:
    """The model to be trained, a `PreTrainedModel` or, with adapters, a `peft.PeftModel`, with our loss and attention.

    All weights are trained with room for every token; adapters, on the base as it is.

    Args:
        start: Its model is changed in place; a second call loads it anew.
        config: Dropout and adapters; its seed draws the adapters' weights.

    Raises:
        ConfigError: The model has no layer that ``--lora_targets`` names.
        CheckpointError: It is to be loaded anew, and is gone.
    """
    if start.used:
        start.found.model = load_start(config).found.model
    start.used = True
    model, own = start.found.model, None
    if config.lora.lora:  # which leaves the base as it is: padding stands for nothing (`PackedCollator.of`)
        own = load_own_tokenizer(start.found.path)
        suppress_spare(model, own)
    else:
        fit_embeddings(model, start.tokenizer, start.known)
    if config.finetune.dropout is not None:
        set_dropout(model, config.finetune.dropout)
    install_attention(install_losses(model.train()))
    files = {TASK_FILE: start.task.to_yaml()} if start.task is not None else {}
    trained: Any = model
    if config.lora.lora:
        trained = add_adapters(model, config, start.base)
        files[BASE_RECORD] = base_record(start.found.path)
    Beside(files, own).attach(trained)
    return trained


def add_adapters(model: PreTrainedModel, config: FinetuneConfig, base: str) -> Any:
    """`model` as a `peft.PeftModel`, of which only the adapters are trained.

    Args:
        model: GPT-2 or GPT-NeoX.
        config: Rank, scale, dropout and layers; its seed draws the weights.
        base: Where the adapters' file says that its model lies.
    """
    settings, kind = config.lora, model.config.model_type
    set_seed(config.training.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by an old name
        adapted = _adapted(model, settings, kind)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def _adapted(model: PreTrainedModel, settings: LoraArguments, kind: str) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=settings.lora_dropout,
            target_modules=settings.targets(kind),
            fan_in_fan_out=kind == "gpt2",  # whose layers keep their weights the other way round
        ),
    )


def write_final(trained: Any, start: Start, config: FinetuneConfig, folder: Path) -> Any:
    """Write what a fine-tuning has made: a whole model, or adapters with a record of their base; and its task.

    Args:
        trained: From `tuned_model`; with ``--merge`` its adapters are added to its weights, in place.
        start: What it was made of.
        config: Says whether adapters are merged.
        folder: Is there and empty.

    Returns:
        The model as it was written, ready to be sampled from.

    Raises:
        StorageError: The task or the record of the base cannot be written.
    """
    beside = beside_of(trained)
    if config.lora.lora and not config.lora.merge:
        save_adapter(trained, folder)
        beside.write(folder)
    else:
        trained = trained.merge_and_unload() if config.lora.lora else trained
        trained.save_pretrained(folder)
        if start.task is not None:
            start.task.save(folder)
    tokenizer = copy.deepcopy(beside.tokenizer or start.tokenizer)
    tokenizer.chat_template = published_template(start.task, tokenizer)
    tokenizer.save_pretrained(folder)
    return trained


def load_own_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder as it lies there, but for the start of text (`grow_tokenizer`)."""
    tokenizer = load_tokenizer(folder, "--from_pretrained")
    tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def model_card(start: Start, config: FinetuneConfig, parameters: int) -> tuple[str, str]:
    """How the model came about, in a sentence, and how it is loaded, in Python."""
    what = start.task.name if start.task is not None else "plain text"
    way = f"by LoRA of rank {config.lora.lora_r}" if config.lora.lora else "in all its weights"
    made = f"trained from scratch with llmforge in the shape of `{config.finetune.from_pretrained}`"
    if not config.finetune.from_scratch:
        made = f"fine-tuned {way} with llmforge from `{config.finetune.from_pretrained}`"
    sentence = f"A {config.base.model_type} model of {parameters:,} parameters, {made} for: {what}"
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if config.lora.lora and not config.lora.merge:
        lines = ["from peft import AutoPeftModelForCausalLM", "from transformers import AutoTokenizer", ""]
        lines += ['model = AutoPeftModelForCausalLM.from_pretrained("final")']
    else:
        lines += ['model = AutoModelForCausalLM.from_pretrained("final")']
    return sentence, "\n".join([*lines, 'tokenizer = AutoTokenizer.from_pretrained("final")'])
