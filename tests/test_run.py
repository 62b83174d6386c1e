"""What a run says before it starts, on made-up devices."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmforge import pretrain, run
from llmforge.configs.deadline import UNBOUNDED, DeadlineArguments
from llmforge.configs.model import ModelArguments
from llmforge.data.prepared import load_prepared
from llmforge.models import build_config
from llmforge.planning.activations import Batch
from llmforge.planning.memory import Setup, estimate
from llmforge.planning.shapes import shape_from
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
        assert re.search(r"^memory +1 MiB for weights, gradients and Muon, \d+ MiB for the activations", text, re.MULTILINE)
        assert re.search(r"^attention +documents isolated by causal attention per document \(sdpa\) *$", text, re.MULTILINE)
    assert warnings(told.out + told.err + log) == []


def test_memory_that_is_short_is_a_warning_with_a_remedy(corpus, capsys, device):
    device(2**20)
    assert run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--output_dir", "run"]) == 0
    told = capsys.readouterr()
    [line] = warnings(told.err)
    assert re.match(r"warning: memory is short: a step takes about \d+ MiB of the 1 MiB of Tiny Card", line)
    assert "smaller --preset" in line
    [logged] = warnings(Path("run/run.log").read_text())
    assert " WARNING memory is short" in logged
    assert "short, see the warning" in " ".join(told.out.split())


def test_a_dry_run_warns_too(corpus, capsys, device):
    device(2**20)
    with pytest.raises(SystemExit):
        run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--dry_run"])
    assert len(warnings(capsys.readouterr().err)) == 1


def test_an_optimizer_that_is_not_known_is_said_to_be_counted_as_another(corpus, capsys):
    """The state itself is compared with real ones in tests/planning."""
    for optim, told in (("adamw_torch", "gradients and AdamW,"), ("lomo", "gradients and lomo, counted as AdamW,")):
        setup = Setup(shape_from(build_config(ModelArguments(), 64)), Batch(1, 32), optim=optim)
        assert told in run._memory_line(setup, short=False)


@pytest.mark.parametrize(
    ("kind", "share", "processes", "short"),
    [
        ("cuda", 1.2, 1, False),
        ("cuda", 0.8, 1, True),
        ("cuda", 1.2, 2, False),  # a GPU each
        ("cpu", 1.8, 2, True),  # both in the machine's memory
        ("cpu", 2.4, 2, False),
    ],
)
def test_what_is_short(kind, share, processes, short, corpus, capsys, device, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(SystemExit):
        run_command(pretrain.main, [*FLAGS, "--corpus", str(corpus), "--dry_run"])
    capsys.readouterr()
    config = pretrain.parse_pretrain([*FLAGS, "--corpus", str(corpus), "--dry_run"])
    data = load_prepared(pretrain.prepare_dataset(config.data, config.tokenizer).path)
    device(2**40, kind)
    device(int(share * estimate(run._setup(config, data)).peak), kind)
    run.announce(config, data)
    assert bool(warnings(capsys.readouterr().err)) is short


def test_a_model_far_too_large_for_its_corpus_is_told_and_a_small_one_is_not(corpus, capsys):
    for flags, told in (([], True), (["--n_layer", "1", "--n_head", "1", "--n_embd", "4", "--n_positions", "64"], False)):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            pretrain.main(["--preset", "gpt2-10m", "--corpus", str(corpus), "--block_size", "32", "--dry_run", *flags])
        assert ("will learn them by heart; --deadline" in capsys.readouterr().err) is told


def test_of_a_resumed_run_with_a_deadline_the_time_that_is_used_is_taken_off(tmp_path):
    deadline = DeadlineArguments(deadline="3m")
    training = SimpleNamespace(max_steps=-1)
    config = SimpleNamespace(deadline=deadline, data=SimpleNamespace(max_eval_samples=None), training=training)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"run_seconds": 20.0}, {"run_seconds": 60.0}, {}]}))
    card = {"splits": {"train": {"rows": 9}, "validation": {"rows": 2}}}
    deadline.begun = time.monotonic() - 10
    run._keep_time(SimpleNamespace(checkpoint=tmp_path, callbacks=[]), config, SimpleNamespace(card=card))
    left = re.search(r"into the (\d) min (\d+) s that are left", run._step_count(config, UNBOUNDED))
    assert 105 <= 60 * int(left[1]) + int(left[2]) <= 110  # of 180 seconds 60 before, and 10 of this start
    assert run._step_count(config, 416).startswith("at most 416, as many as fit into")
    assert run._planned(config, 416) is None
    training.max_steps = 416
    assert (run._step_count(config, 416), run._planned(config, 416)) == ("416", 416)


def test_what_a_deadline_chooses_can_be_sent_to_a_file(corpus, capsys, monkeypatch):
    monkeypatch.setattr(pretrain, "set_dial", lambda *_: None)
    with pytest.raises(SystemExit):
        pretrain.main([*FLAGS, "--corpus", str(corpus), "--dry_run", "--deadline", "30m"])
    told = capsys.readouterr()
    assert "device" not in told.out
    assert re.search(r"^device .*fp32", told.err, re.MULTILINE)
    with pytest.raises(SystemExit):
        pretrain.main([*FLAGS, "--corpus", str(corpus), "--dry_run"])
    assert re.search(r"^device .*fp32", capsys.readouterr().out, re.MULTILINE)
