"""Tasks of lm-eval (EleutherAI's evaluation harness) on a model that is loaded; the extra lm-eval."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import ConfigError, DataError
from llmforge.runtime.logs import logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmforge.pretrained.loading import Pretrained

#: For the harness's own standard errors of metrics that have no formula.
_RESAMPLES = 1000


def check_harness(tasks: Sequence[str]) -> None:
    """Refuse ``--lm_eval`` where it cannot run, before anything else does.

    Raises:
        ConfigError: lm-eval is not installed, or a file is not there.
    """
    for task in tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).expanduser().is_file():
            raise ConfigError(f"--lm_eval {task}: no such file.", "Give the YAML file of a task, or the name of one.")
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"--lm_eval {' '.join(tasks)} needs lm-eval, which is not installed.", "pip install 'llmforge[lm-eval]'"
        ) from None


def run_harness(found: Pretrained, tasks: Sequence[str], batch_size: int) -> dict[str, dict[str, Any]]:
    """What lm-eval finds on its tasks.

    Every prompt begins with the token that documents began with in training. The context is what the model was trained on.

    Args:
        found: Its model is moved to the accelerator, where there is one.
        tasks: Names that lm-eval knows, whose data come from the hub, or YAML files of tasks.
        batch_size: Requests at a time.

    Returns:
        By task: ``samples``, each metric by its name, and its standard error as ``stderr NAME``.

    Raises:
        ConfigError: No such task.
        DataError: A task cannot be used, or its data cannot be had.
    """
    check_harness(tasks)
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if torch.accelerator.is_available():
        found.model.to(torch.accelerator.current_accelerator())
    paths = [str(Path(task).expanduser()) if task.endswith((".yaml", ".yml")) else task for task in tasks]
    with _quiet():
        # Its own tasks are some ten thousand files, which it reads all of to find one.
        manager = TaskManager(include_defaults=not all(task.endswith((".yaml", ".yml")) for task in tasks))
        try:
            loaded = manager.load(paths)
        except KeyError as error:
            raise ConfigError(f"--lm_eval: {error.args[0]}.", "`lm-eval ls tasks` lists the names.") from None
        except Exception as error:  # whatever a task's YAML, code and data can raise
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"--lm_eval {' '.join(tasks)}: {reason}.", "Mend the task, or fetch its data while online."
            ) from error
        model = HFLM(
            pretrained=found.model,
            tokenizer=_starting(found.tokenizer),
            backend="causal",
            max_length=found.context,
            batch_size=batch_size,
            add_bos_token=True,
        )
        result = lm_eval.evaluate(model, loaded, log_samples=False, bootstrap_iters=_RESAMPLES)
    assert result is not None
    return {task: _plain(values, result["n-samples"].get(task, {})) for task, values in result["results"].items()}


def _starting(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that begins every text with the token that documents begin with, and has padding."""
    from tokenizers.processors import TemplateProcessing

    made = copy.deepcopy(tokenizer)
    start = str(made.bos_token)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, made.bos_token_id)])
    if made.pad_token is None:
        made.pad_token = made.eos_token
    return made


def _plain(values: dict[str, Any], counted: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"samples": counted.get("effective")} if counted else {}
    for key, value in values.items():
        name, comma, kind = key.partition(",")
        if not comma or not isinstance(value, (int, float)):
            continue
        label = f"stderr {name.removesuffix('_stderr')}" if name.endswith("_stderr") else name
        found[label if kind == "none" else f"{label} ({kind})"] = float(value)
    return found


@contextlib.contextmanager
def _quiet() -> Any:
    """Without what the harness says of each step; its warnings stay in the debug log."""
    theirs = logging.getLogger("lm_eval")
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    logger.info("lm-eval is running")
    try:
        yield
    finally:
        theirs.setLevel(before)
