"""Operations a token, and the device table."""

from __future__ import annotations

import pytest
from helpers import tiny_model

from llmforge.checkpoints.snapshot import has_room
from llmforge.errors import ConfigError
from llmforge.models import flops_per_token as flops_of_model
from llmforge.planning.activations import Batch
from llmforge.planning.memory import Setup
from llmforge.planning.shapes import shape_from
from llmforge.planning.speed import CPU_SHARE, GPU_SHARE, flops_per_token, predict_speed
from llmforge.runtime import devices
from llmforge.runtime.devices import Device, known_device


def test_the_operations_are_those_counted_in_the_model(preset, tokenizer):
    model = tiny_model(preset, tokenizer)
    shape = shape_from(model.config)
    assert flops_per_token(shape, 64) == flops_of_model(model, 64)
    assert flops_per_token(shape, 64) < flops_per_token(shape, 64, checkpointed=True) < 4 / 3 * flops_per_token(shape, 64)


def test_the_speed_of_a_known_card_and_of_several(tokenizer):
    shape = shape_from(tiny_model("gpt2-10m", tokenizer).config)
    one = Setup(shape, Batch(8, 64, half=True, gpu=True))
    speed = predict_speed(one, known_device("RTX 3090"), "bf16")
    assert speed.tokens_per_second == pytest.approx(GPU_SHARE * 71e12 / flops_per_token(shape, 64))
    assert "assumption" in speed.source
    two = predict_speed(Setup(shape, one.batch, processes=2), known_device("RTX 3090"), "bf16")
    assert two.tokens_per_second == 2 * speed.tokens_per_second
    assert predict_speed(one, Device("cuda", "Unheard Of 9000", 2**33, "bf16"), "bf16") is None


def test_a_cpu_is_as_fast_as_its_product(tokenizer, monkeypatch):
    from llmforge.planning import speed

    shape = shape_from(tiny_model("gpt2-10m", tokenizer).config)
    monkeypatch.setattr(speed, "matrix_flops", lambda precision: 1e11)
    told = predict_speed(Setup(shape, Batch(8, 64)), Device("cpu", "CPU", 2**33, None), "fp32")
    assert told.tokens_per_second == pytest.approx(CPU_SHARE * 1e11 / flops_per_token(shape, 64))


@pytest.mark.parametrize(
    ("name", "kind", "half", "gib"),
    [("RTX 3090", "cuda", "bf16", 24), ("nvidia t4", "cuda", "fp16", 16), ("rx 6700 xt", "rocm", "fp16", 12)],
)
def test_a_card_by_its_name(name, kind, half, gib):
    device = known_device(name)
    assert (device.kind, device.half, device.memory) == (kind, half, gib * 2**30)


def test_a_card_that_is_not_known_or_not_one():
    with pytest.raises(ConfigError, match="Did you mean 'RTX 3090'"):
        known_device("RTX 309")
    with pytest.raises(ConfigError, match="Give --device_memory too"):
        known_device("A100")
    assert known_device("A100", 40 * 2**30).memory == 40 * 2**30


def test_a_limit_of_the_control_group_counts(monkeypatch, tmp_path):
    """What is left below the limit is all that a training may take, and that a checkpoint may be copied into."""
    files = {"/sys/fs/cgroup/memory.max": "1000", "/sys/fs/cgroup/memory.current": "400"}
    real = devices.Path

    def path(name):
        place = tmp_path / name.replace("/", "_")
        if name in files:
            place.write_text(files[name])
        return real(place)

    monkeypatch.setattr(devices, "Path", path)
    assert devices.available_memory(use_cpu=True) == devices.free_memory() == 600
    assert (has_room(480), has_room(481)) == (True, False)  # four fifths
