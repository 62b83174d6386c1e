"""`transformers.Trainer`, made right for packed rows.

Trainer's loop is the loop. What is overridden here, each override names the stock method
it replaces and why.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback

from llmforge.attention import choose_attention, install_attention
from llmforge.callbacks.copied_state import CopiedState
from llmforge.callbacks.divergence import Divergence, refuse_non_finite
from llmforge.callbacks.epoch_order import EpochOrder
from llmforge.callbacks.loss_window import LossWindow
from llmforge.callbacks.tracker import Trackers
from llmforge.checkpointing import Checkpointing
from llmforge.checkpoints.writer import CheckpointWriter
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.rows import PackedRows
from llmforge.data.sampler import EpochSampler
from llmforge.losses import install_losses
from llmforge.models import compile_blocks
from llmforge.optimizers import build_optimizer, decayed_names, making
from llmforge.runtime.precision import apply_precision
from llmforge.runtime.signals import outliving
from llmforge.sharding import whole
from llmforge.tokenization import from_pretrained_tokenizer


class ForgeTrainer(Checkpointing, Trainer):
    """A `transformers.Trainer` for packed rows.

    Takes what Trainer takes; `processing_class` must be a fast byte-level tokenizer. Datasets
    that are not `PackedRows` are trained on as stock Trainer would. `trackers` shows texts,
    pictures and histograms in TensorBoard and W&B; none of `report_to` can stop or hold the run.
    `checkpoints` commits checkpoints, in the way that `saving` says; what follows a commit is hung up there.

    Raises:
        ConfigError: FSDP with a sharded state, which no checkpoint of ours holds.
        TrainingDiverged: From `train`, before the step is applied whose loss or gradient is not finite.
        CheckpointError: From `train`, the checkpoint to resume from cannot be used.
        StorageError: From `train`, checkpoints could not be saved several times in a row.
    """

    def __init__(
        self, model: PreTrainedModel, args: ForgeTrainingArguments, saving: CheckpointArguments | None = None, **kwargs: Any
    ):
        apply_precision(args)
        args.choose_learning_rate(model.config.hidden_size)
        tokenizer = kwargs["processing_class"]
        self._token_bytes = torch.from_numpy(from_pretrained_tokenizer(tokenizer).byte_lengths())
        missing = model.config.vocab_size - len(self._token_bytes)
        self._token_bytes = nn.functional.pad(self._token_bytes, (0, max(missing, 0)))
        kwargs.setdefault("compute_metrics", _compute_metrics)
        self.last_losses: list[torch.Tensor] = []  # of the step about to be applied, one a micro-batch
        self.last_grad_norm: Any = None
        self._losses: list[torch.Tensor] = []
        self._new_tokens: torch.Tensor | None = None
        self.sums_by_segment = False  # what `prediction_step` gives: sums a row, or a segment (`llmforge.losses.segment_sums`)
        self.sampler: EpochSampler | None = None
        self._flops: dict[int, int] = {}  # of a micro-batch, by its positions
        if args.torch_compile:
            compile_blocks(model, args.torch_compile_backend, args.torch_compile_mode)
        super().__init__(model=install_losses(model, args.lean_loss), args=args, **kwargs)
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
        install_attention(model, choose_attention(args.packed_attention, model.config, args.device, half).way)
        self.trackers = Trackers.install(self.callback_handler)  # so that no tracker can stop or hold the run
        self.checkpoints = CheckpointWriter(self, saving or CheckpointArguments())
        self.checkpoints.after_commit.append(self.trackers.committed)
        self.add_callback(LossWindow)
        self.add_callback(CopiedState)
        if not any(isinstance(callback, Divergence) for callback in self.callback_handler.callbacks):
            self.add_callback(Divergence())
        for callback in self.callback_handler.callbacks:
            self._attach(callback)

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Extends `Trainer.add_callback`: callbacks that look into this trainer are handed it."""
        super().add_callback(callback)
        self._attach(self.callback_handler.callbacks[-1])

    def _attach(self, callback: TrainerCallback) -> None:
        if hasattr(callback, "attach"):
            callback.attach(self)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[Any] | None:
        """Replaces `Trainer._get_train_sampler`: its order depends on the process and repeats rows at an epoch's end."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, PackedRows):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        step_rows = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.sampler = EpochSampler(len(dataset), step_rows, seed)
        self.remove_callback(EpochOrder)
        self.add_callback(EpochOrder(self.sampler))
        return self.sampler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Extends `Trainer._init_training_state`: what an interrupted `train` left half-counted is forgotten."""
        self.last_losses, self._losses, self._new_tokens, self._flops = [], [], None, {}
        return super()._init_training_state(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Extends `Trainer._run_epoch`: a resumed run goes on with the losses not yet logged, and not past its end.

        Stock sums them anew; and it looks for the end only after a step, and so trains one more. An evaluation
        that was cut short is done first.
        """
        self._evaluate_again(kwargs.get("trial"))
        window = self._loss_window()
        if window.steps:
            self._tr_loss += window.loss
            self._total_loss_scalar -= window.loss  # the summary at the end is of this call's own steps
            self._globalstep_last_logged -= window.steps
            window.loss, window.steps = 0.0, 0
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader[Any]:
        """Extends `Trainer._get_dataloader`: the loader of packed rows leaves the global random state to dropout.

        A loader draws a seed whenever it makes an iterator, which persistent workers do once and others
        every epoch; a resumed run makes one more, and its dropout masks would be other ones. Its workers outlive signals.
        """
        loader = super()._get_dataloader(dataset, *args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)
        if isinstance(dataset, PackedRows):  # which have nothing random in them
            inner.generator = torch.Generator().manual_seed(self.args.seed)
        inner.worker_init_fn = outliving(inner.worker_init_fn)
        return loader

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Extends `Trainer._build_accelerator_args`: ``--torch_compile`` compiles the blocks (`compile_blocks`), not the whole.

        One block is compiled and serves all layers: seconds instead of minutes, and names stay as they are.
        """
        made = super()._build_accelerator_args(**kwargs)
        if self.args.torch_compile:
            made["dynamo_plugin"] = TorchDynamoPlugin(backend="no")
        return made

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Extends `Trainer.floating_point_ops`, which walks over every parameter at every micro-batch: once for each size."""
        if "input_ids" not in inputs:
            return super().floating_point_ops(inputs)
        size = inputs["input_ids"].numel()
        if size not in self._flops:
            self._flops[size] = super().floating_point_ops(inputs)
        return self._flops[size]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Replaces `Trainer.get_decay_parameter_names`, which goes by names: decay belongs on matrices only."""
        return decayed_names(model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Extends `Trainer.create_optimizer`: knows Muon; what is wrong with another one's settings is told in one line."""
        if self.args.optim == "muon" and self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = build_optimizer(self.model if model is None else model, self.args)
        with making(self.args):
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Extends `Trainer.create_scheduler`: the decay of warmup_stable_decay is a share of the steps, known only here."""
        given = self.args.lr_scheduler_kwargs
        self.args.lr_scheduler_kwargs = self.args.schedule_settings(num_training_steps)
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.lr_scheduler_kwargs = given

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Extends `Trainer.training_step`: keeps the losses of the step, on the device, for `Divergence`."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        first = not self._losses
        self._losses.append(loss.detach())
        if first and torch.is_tensor(num_items_in_batch):  # the same count comes with every micro-batch of a step
            self._new_tokens = num_items_in_batch if self._new_tokens is None else self._new_tokens + num_items_in_batch
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Extends `Trainer._get_grad_norm`: keeps it for `Divergence`; a step is complete here and not yet applied."""
        self.last_losses, self._losses = self._losses, []
        self.last_grad_norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))  # of FSDP, one that is spread
        return self.last_grad_norm

    def rows_of_step(self, step: int) -> list[dict[str, Any]]:
        """The packed rows that optimizer step `step`, counted from 0, trains on in all processes; none where unknown."""
        if self.sampler is None:
            return []
        epoch, inside = divmod(step, self.sampler.steps)
        order = self.sampler.order(epoch)[inside * self.sampler.step_rows :][: self.sampler.step_rows]
        return [self.train_dataset[int(index)] for index in order]

    def _count_tokens(self) -> None:
        """Move the tokens counted on the device into the state; one synchronisation a log event."""
        if self._new_tokens is not None:
            self.state.num_input_tokens_seen += int(self._new_tokens)
            self._new_tokens = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Extends `Trainer.log`: the tokens trained on so far, without a synchronisation a micro-batch."""
        self._count_tokens()
        logs["tokens"] = self.state.num_input_tokens_seen
        super().log(logs, start_time)
        if "eval_loss" in logs:  # `evaluate` returns this dictionary, which has its own eval_tokens; a notebook shows it
            del logs["tokens"]

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Extends `Trainer._evaluate`: a step that broke the weights is found before they are evaluated and sampled from."""
        refuse_non_finite(self.model, self.state.global_step)
        return super()._evaluate(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Replaces `Trainer.prediction_step` on packed rows: sums a row, made inside the forward pass.

        Stock gathers logits and averages averages. No loss is returned, so that stock's own
        ``eval_loss`` does not overwrite the one counted from the sums.
        """
        if "shift_labels" not in inputs:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        self._token_bytes = self._token_bytes.to(inputs["input_ids"].device)
        more = {"ordinals": inputs["segments"].ordinals().to(self._token_bytes.device)} if self.sums_by_segment else {}
        with torch.no_grad(), self.compute_loss_context_manager():
            sums = model(**inputs, **more, token_bytes=self._token_bytes)["row_sums"]
        return None, sums, sums[..., 1]


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    from llmforge.metrics import summarise  # imports evaluate, a second that a command which fails need not take

    return summarise(prediction.predictions)
