"""FSDP's state brought together and spread out again, in one process that is a group of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny_model, training_args
from torch.distributed.fsdp import fully_shard

from llmforge.build import refuse_unsharded
from llmforge.callbacks.divergence import refuse_non_finite
from llmforge.checkpoints.agreement import refuse_several_folders
from llmforge.errors import ConfigError, TrainingDiverged
from llmforge.sharding import gathered, is_sharded, load_weights, piece, spread_optimizer_state, whole_model


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(params=["gpt2-10m", "neox-10m"])
def models(request, tokenizer):
    """A model, and the same one spread as accelerate does it: the blocks, and what is tied in one group."""
    plain = tiny_model(request.param, tokenizer)
    spread = copy.deepcopy(plain)
    blocks = next(module for module in spread.modules() if isinstance(module, torch.nn.ModuleList))
    for block in blocks:
        fully_shard(block)
    fully_shard([spread.get_input_embeddings(), spread.get_output_embeddings()])
    return plain, fully_shard(spread)


def stepped(model, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.arange(3, 19).reshape(2, 8)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_a_sharded_state_is_that_of_an_unsharded_training(models):
    plain, spread = models
    optimizers = [stepped(model) for model in models]
    assert (is_sharded(plain), is_sharded(spread)) == (False, True)
    state = gathered(spread.state_dict(), keep=True)
    assert state.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)
    mine, theirs = (optimizer.state_dict() for optimizer in optimizers)
    theirs = gathered(theirs, keep=True)
    assert mine["param_groups"] == theirs["param_groups"]
    for place, values in mine["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(theirs["state"][place][name], value, rtol=1e-4, atol=1e-7)


def test_a_gathered_state_stays_as_it_is_while_training_goes_on(models):
    _, spread = models
    optimizer = stepped(spread)
    state = gathered({"model": spread.state_dict(), "optimizer": optimizer.state_dict()["state"]}, keep=True)
    kept = copy.deepcopy(state)
    ids = torch.arange(3, 19).reshape(2, 8)
    spread(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, kept["model"][name]) for name, value in state["model"].items())
    for place, values in state["optimizer"].items():
        assert all(torch.equal(value, kept["optimizer"][place][name]) for name, value in values.items())


def test_a_process_that_does_not_write_keeps_nothing(models):
    state = gathered(models[1].state_dict(), keep=False)
    assert sum(value.numel() for value in state.values()) == 0


def test_tied_weights_are_gathered_once(tokenizer):
    model = tiny_model("gpt2-10m", tokenizer)
    fully_shard([model.get_input_embeddings(), model.get_output_embeddings()])
    state = gathered(model.state_dict(keep_vars=True), keep=True)
    assert state["lm_head.weight"] is state["transformer.wte.weight"]


def test_weights_and_optimizer_of_an_unsharded_checkpoint_are_loaded(models, tmp_path):
    plain, spread = models
    optimizer = stepped(plain)
    plain.save_pretrained(tmp_path, save_original_format=False)
    other = stepped(spread, steps=1)
    load_weights(spread, tmp_path)
    other.load_state_dict(spread_optimizer_state(optimizer.state_dict(), other))
    for name, value in gathered(spread.state_dict(), keep=True).items():
        assert torch.equal(value, plain.state_dict()[name]), name
    loaded = gathered(other.state_dict(), keep=True)
    for place, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, loaded["state"][place][name]) for name, value in values.items())
    stepped(spread), other.step()  # what was loaded is spread as the parameters are


def test_the_whole_model_generates_as_the_one_it_is_of(models):
    plain, spread = models
    whole = whole_model(spread, keep=True)
    assert not is_sharded(whole)
    assert type(whole) is type(plain)
    ids = torch.arange(3, 19).reshape(2, 8)
    torch.testing.assert_close(whole(ids).logits, plain.eval()(ids).logits, rtol=0, atol=1e-6)
    assert whole.generation_config.suppress_tokens == plain.generation_config.suppress_tokens
    assert whole_model(plain, keep=True) is plain


def test_a_weight_that_is_not_finite_is_found_in_its_piece(models):
    _, spread = models
    refuse_non_finite(spread, 3)
    with torch.no_grad():
        piece(spread.get_input_embeddings().weight)[1] = torch.inf
    with pytest.raises(TrainingDiverged, match=r"Step 3.*1 parameters"):
        refuse_non_finite(spread, 3)


# --- what is refused ---------------------------------------------------------------------------------


def test_fsdp_on_a_cpu_is_refused(tmp_path, monkeypatch):
    args = training_args(tmp_path)
    refuse_unsharded(args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"FSDP on a CPU.*--multi_gpu --num_processes 2"):
        refuse_unsharded(args)
    from llmforge.pretrain import parse_pretrain

    (tmp_path / "text.txt").write_text("some words of a text\n" * 99)
    words = ["--corpus", str(tmp_path / "text.txt"), "--optim", "sgd", "--use_cpu", "--report_to", "none"]
    with pytest.raises(ConfigError, match="FSDP on a CPU"):  # and not when the data has been prepared
        parse_pretrain(words)


def test_what_cannot_be_spread_is_refused(tokenizer, tmp_path, monkeypatch):
    from llmforge.configs.evaluation import EvaluationArguments
    from llmforge.evaluation import evaluate_model
    from llmforge.finetune import parse_finetune, prepare_finetune

    model = tmp_path / "model"
    tiny_model("gpt2-10m", tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    (tmp_path / "text.txt").write_text("func a")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"FSDP does not go with an evaluation\..*--multi_gpu for DDP"):
        evaluate_model(EvaluationArguments(model=str(model), corpus=[str(tmp_path / "text.txt")]))
    with pytest.raises(ConfigError, match="FSDP does not go with --lora"):
        words = ["--from_pretrained", str(model), "--corpus", str(tmp_path / "text.txt"), "--lora", "--use_cpu"]
        prepare_finetune(parse_finetune(words))


def test_the_first_version_of_fsdp_is_refused():
    class Plugin:
        state_dict_type = "StateDictType.FULL_STATE_DICT"
        fsdp_version = 1

    class Trainer:
        is_fsdp_enabled = True

        class accelerator:
            class state:
                fsdp_plugin = Plugin

    with pytest.raises(ConfigError, match=r"version 1.*fsdp_version: 2"):
        refuse_several_folders(Trainer)
