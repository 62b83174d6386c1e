"""llmforge: from a folder of your own text to a trained language model.

Importing it is instant; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name → module that holds it.
_HOME = {
    "BitsPerByte": "metrics",
    "CheckpointArguments": "configs.checkpoint",
    "CheckpointError": "errors",
    "CheckpointSync": "callbacks.checkpoint_sync",
    "ConfigError": "errors",
    "DataArguments": "configs.data",
    "DataError": "errors",
    "Divergence": "callbacks.divergence",
    "EarlyStopping": "callbacks.early_stopping",
    "EpochSampler": "data.sampler",
    "Comparison": "scoring.result",
    "Evaluation": "scoring.result",
    "EvaluationArguments": "configs.evaluation",
    "ExportArguments": "configs.export",
    "ExportResult": "export",
    "FinetuneArguments": "configs.finetune",
    "FinetuneConfig": "configs.finetune",
    "FinetuneTrainingArguments": "configs.tuning",
    "ForgeTrainer": "trainer",
    "ForgeTrainingArguments": "configs.training",
    "GenerationArguments": "configs.generation",
    "Histograms": "callbacks.histograms",
    "LlmforgeError": "errors",
    "LoraArguments": "configs.lora",
    "LossPlot": "callbacks.loss_plot",
    "ModelArguments": "configs.model",
    "PackedCollator": "data.collate",
    "PackedRows": "data.rows",
    "Perplexity": "metrics",
    "PreparedDataset": "data.prepared",
    "PretrainConfig": "configs.run",
    "Run": "history",
    "RemoteArguments": "configs.remote",
    "RunArguments": "configs.run",
    "RunFolder": "runtime.run_folder",
    "RunLog": "callbacks.run_log",
    "RunReport": "callbacks.run_report",
    "RunResult": "results",
    "Samples": "callbacks.samples",
    "StorageError": "errors",
    "Task": "tasks.task",
    "Throughput": "callbacks.throughput",
    "TokenAccuracy": "metrics",
    "TokenizerArguments": "configs.tokenizer",
    "TrainingDiverged": "errors",
    "ask": "generate",
    "build_model": "models",
    "build_trainer": "build",
    "compare_models": "evaluation",
    "complete": "sampling.completions",
    "evaluate_model": "evaluation",
    "export_model": "export",
    "convert_scenarios": "convert",
    "find_task": "tasks.files",
    "finetune_model": "finetune",
    "finish": "results",
    "load_prepared": "data.prepared",
    "load_pretrained_model": "pretrained.loading",
    "load_run": "history",
    "load_task": "tasks.files",
    "open_run": "run",
    "parse_finetune": "finetune",
    "parse_pretrain": "pretrain",
    "prepare_dataset": "data.prepare",
    "prepare_finetune": "finetune",
    "prepare_run": "pretrain",
    "pretrain_model": "pretrain",
    "run_command": "runtime.commands",
    "train_fitting": "auto_batch",
    "tuned_model": "tuning.start",
    "write_report": "report",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from llmforge.auto_batch import train_fitting
    from llmforge.build import build_trainer
    from llmforge.callbacks.checkpoint_sync import CheckpointSync
    from llmforge.callbacks.divergence import Divergence
    from llmforge.callbacks.early_stopping import EarlyStopping
    from llmforge.callbacks.histograms import Histograms
    from llmforge.callbacks.loss_plot import LossPlot
    from llmforge.callbacks.run_log import RunLog
    from llmforge.callbacks.run_report import RunReport
    from llmforge.callbacks.samples import Samples
    from llmforge.callbacks.throughput import Throughput
    from llmforge.configs.checkpoint import CheckpointArguments
    from llmforge.configs.data import DataArguments
    from llmforge.configs.evaluation import EvaluationArguments
    from llmforge.configs.export import ExportArguments
    from llmforge.configs.finetune import FinetuneArguments, FinetuneConfig
    from llmforge.configs.generation import GenerationArguments
    from llmforge.configs.lora import LoraArguments
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.remote import RemoteArguments
    from llmforge.configs.run import PretrainConfig, RunArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.configs.tuning import FinetuneTrainingArguments
    from llmforge.convert import convert_scenarios
    from llmforge.data.collate import PackedCollator
    from llmforge.data.prepare import prepare_dataset
    from llmforge.data.prepared import PreparedDataset, load_prepared
    from llmforge.data.rows import PackedRows
    from llmforge.data.sampler import EpochSampler
    from llmforge.errors import CheckpointError, ConfigError, DataError, LlmforgeError, StorageError, TrainingDiverged
    from llmforge.evaluation import compare_models, evaluate_model
    from llmforge.export import ExportResult, export_model
    from llmforge.finetune import finetune_model, parse_finetune, prepare_finetune
    from llmforge.generate import ask
    from llmforge.history import Run, load_run
    from llmforge.metrics import BitsPerByte, Perplexity, TokenAccuracy
    from llmforge.models import build_model
    from llmforge.pretrain import parse_pretrain, prepare_run, pretrain_model
    from llmforge.pretrained.loading import load_pretrained_model
    from llmforge.report import write_report
    from llmforge.results import RunResult, finish
    from llmforge.run import open_run
    from llmforge.runtime.commands import run_command
    from llmforge.runtime.run_folder import RunFolder
    from llmforge.sampling.completions import complete
    from llmforge.scoring.result import Comparison, Evaluation
    from llmforge.tasks.files import find_task, load_task
    from llmforge.tasks.task import Task
    from llmforge.trainer import ForgeTrainer
    from llmforge.tuning.start import tuned_model


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"llmforge.{_HOME[name]}"), name)
    raise AttributeError(f"module 'llmforge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
