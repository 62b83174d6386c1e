"""What a run says before it starts, on made-up devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from llmforge import pretrain, run
from llmforge.runtime.commands import run_command
from llmforge.runtime.devices import Device

#: gpt2-10m of 2 layers and width 32 at 400 entries is 71 thousand parameters: some 1.1 MiB with AdamW.
FLAGS = ["--preset", "gpt2-10m", "--n_layer", "2", "--n_embd", "32", "--n_head", "2", "--vocab_size", "400", "--block_size", "32"]
FLAGS += ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm"]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """Makes `run` believe that it trains on a device of so many bytes."""

    def install(memory: int, kind: str = "cuda") -> None:
        monkeypatch.setattr(run, "probe_device", lambda use_cpu=False: Device(kind, "Tiny Card", memory, "fp16"))

    return install


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "memory is short" in line]


def test_a_run_says_device_memory_and_precision(corpus, capsys):
    assert run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--output_dir", "run"]) == 0
    told = capsys.readouterr()
    log = Path("run/run.log").read_text()
    for text in (told.out, log):
        [line] = [line for line in text.splitlines() if line.startswith("device")]
        assert "GiB), fp32" in line
        assert re.search(r"^memory +1 MiB for weights, gradients and Muon", text, re.MULTILINE)
        assert re.search(r"^attention +documents isolated by causal attention per document \(sdpa\) *$", text, re.MULTILINE)
    assert warnings(told.out + told.err + log) == []


@pytest.mark.parametrize(
    ("optim", "told"),
    [("adamw_torch", "30 MiB for weights, gradients and AdamW,"), ("muon", "24 MiB for weights, gradients and Muon,")]
    + [("sgd", "30 MiB for weights, gradients and sgd, counted as AdamW,")],
)
def test_muon_is_counted_with_one_buffer_for_its_matrices(optim, told, corpus, capsys, tokenizer, tmp_path):
    """Against the state that an optimizer really has after a step."""
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.models import build_model
    from llmforge.optimizers import build_optimizer

    wide = [*FLAGS, "--n_embd", "256", "--optim", optim, "--corpus", str(corpus), "--dry_run"]
    with pytest.raises(SystemExit):
        run_command(pretrain.main, wide)
    assert told in " ".join(capsys.readouterr().out.split())
    if optim == "sgd":
        return
    model = build_model(ModelArguments(preset="gpt2-10m", n_layer=2, n_embd=256, n_head=2), tokenizer)
    if optim == "muon":
        optimizer = build_optimizer(model, ForgeTrainingArguments(output_dir=str(tmp_path), optim=optim))
    else:
        optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    size = sum(4 * tensor.numel() for tensor in (*tensors, *model.parameters(), *model.parameters()))
    assert told.startswith(f"{size / 2**20:.0f} MiB")


def test_memory_that_is_short_is_a_warning_with_a_remedy(corpus, capsys, device):
    device(2**20)
    assert run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--output_dir", "run"]) == 0
    told = capsys.readouterr()
    [line] = warnings(told.err)
    assert line.startswith("warning: memory is short: weights, gradients and Muon take 1 MiB of the 1 MiB of Tiny Card")
    assert "smaller --preset" in line
    [logged] = warnings(Path("run/run.log").read_text())
    assert " WARNING memory is short" in logged
    assert "short, see the warning" in " ".join(told.out.split())


def test_a_dry_run_warns_too(corpus, capsys, device):
    device(2**20)
    with pytest.raises(SystemExit):
        run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--dry_run"])
    assert len(warnings(capsys.readouterr().err)) == 1


@pytest.mark.parametrize(
    ("kind", "memory", "processes", "short"),
    [
        ("cuda", 1000, 1, False),
        ("cuda", 999, 1, True),
        ("cuda", 1000, 2, False),  # a GPU each
        ("cpu", 1999, 2, True),  # both in the machine's memory
        ("cpu", 2000, 2, False),
    ],
)
def test_what_is_short(monkeypatch, kind, memory, processes, short):
    """Four fifths of the memory may be taken before activations."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert run._is_short(800, Device(kind, "Card", memory, None)) is short
