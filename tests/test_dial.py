"""``--deadline``: what the user says stays, what follows is shown, and a time that is too short is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers import recipe_config

from llmforge import dial, prepare
from llmforge.configs.model import ModelArguments
from llmforge.errors import ConfigError, DataError
from llmforge.models import build_config
from llmforge.planning.dial import MOST_EPOCHS
from llmforge.planning.speed import Speed
from llmforge.pretrain import parse_pretrain, prepare_run
from llmforge.storage.records import write_json


@pytest.fixture
def probed(monkeypatch):
    """Devices that are ``probed.speed`` tokens a second fast, and what was asked of them."""

    class Probed:
        def __init__(self):
            self.speed, self.models = 20_000.0, []

        def __call__(self, config, vocabulary, steps, seconds):
            self.models.append(config.model)
            return Speed(self.speed, "a test", measured=True)

    probed = Probed()
    monkeypatch.setattr(dial, "probe_speed", probed)
    monkeypatch.setattr(dial, "matrix_flops", lambda precision: 2e11)
    return probed


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A corpus by its size: of more, nothing is looked at before it is prepared."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("some words of a text\n" * 10**6)
    return path


def parsed(text: Path, *flags: str):
    return parse_pretrain(["--corpus", str(text), "--report_to", "none", *flags])


def test_everything_follows_from_corpus_device_and_time(text, probed, capsys):
    config = parsed(text, "--deadline", "30m")
    model = config.model
    assert len(probed.models) == 1
    assert config.training.eval_steps == config.training.save_steps == dial.UNBOUNDED
    assert (config.training.max_steps, config.training.num_train_epochs) == (-1, MOST_EPOCHS)
    assert config.deadline.evaluations == dial.EVALUATIONS
    assert config.training.learning_rate == float(f"{0.1 / model.hidden_size**0.5:.2g}")
    assert model.max_position_embeddings == config.data.block_size
    told = yaml.safe_load(capsys.readouterr().out.partition("--config FILE\n")[2])
    assert told["hidden_size"] == model.hidden_size
    assert told["deadline"] == "30m"
    assert told["corpus"] == str(text)


def test_what_is_shown_is_a_config_of_the_same_run(text, probed, capsys, tmp_path):
    config = parsed(text, "--deadline", "30m", "--seed", "7")
    kept = tmp_path / "kept.yaml"
    kept.write_text(capsys.readouterr().out.partition("--config FILE\n")[2])
    probed.speed *= 9  # another machine
    again = parse_pretrain(["--config", str(kept), "--report_to", "none"])
    for part in ("model", "tokenizer", "data"):
        assert getattr(again, part) == getattr(config, part)
    for name in ("seed", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"):
        assert getattr(again.training, name) == getattr(config.training, name), name


def test_a_speed_that_was_not_foretold_chooses_anew(text, probed):
    slow, fast = 50.0, 2e6
    probed.speed = slow
    small = parsed(text, "--deadline", "30m").model
    probed.speed = fast
    large = parsed(text, "--deadline", "30m").model
    assert weights(small) < weights(large)


def weights(model: ModelArguments) -> int:
    built = build_config(model, 8192)
    return built.num_hidden_layers * built.hidden_size**2


def test_a_field_of_gpt2_is_for_a_gpt2(text, probed):
    """Its shape is still the dial's."""
    own, other = (parsed(text, "--deadline", "30m", *flags).model for flags in ([], ["--layer_norm_epsilon", "1e-6"]))
    built = [build_config(model, 8192) for model in (own, other)]
    assert [one.model_type for one in built] == ["gpt_neox", "gpt2"]
    assert weights(own) == weights(other)
    assert built[0].tie_word_embeddings
    assert built[0].rope_parameters["partial_rotary_factor"] == 1.0


@pytest.mark.parametrize(
    ("flags", "layers", "width"),
    [
        ("--num_hidden_layers 3", 3, 256),
        ("--hidden_size 96 --num_attention_heads 3", 8, 96),
        ("--n_layer 3", 3, 256),
        ("--preset gpt2-50m --n_layer 3", 3, 512),
    ],
)
def test_sizes_without_a_preset_change_the_smallest_of_their_architecture(text, probed, flags, layers, width):
    model = parsed(text, "--deadline", "30m", *flags.split()).model
    built = build_config(model, 8192)
    assert (built.num_hidden_layers, built.hidden_size) == (layers, width)
    assert built.model_type == ("gpt2" if "n_layer" in flags.split("--")[-1] and "num" not in flags else "gpt_neox")


def test_what_the_user_says_of_the_model_besides_its_size_stays_and_leaves_the_size_to_the_dial(text, probed):
    own = parsed(text, "--deadline", "30m").model
    given = parsed(
        text, "--deadline", "30m", "--rotary_pct", "0.5", "--tie_word_embeddings", "false", "--hidden_act", "relu"
    ).model
    assert (given.rotary_pct, given.tie_word_embeddings, given.hidden_act) == (0.5, False, "relu")
    assert weights(given) == weights(own)


@pytest.mark.parametrize("flags", ["--n_positions 128", "--max_position_embeddings 128"])
def test_rows_fit_the_positions_that_were_given(text, probed, flags):
    assert parsed(text, "--deadline", "30m", *flags.split()).data.block_size == 128
    with pytest.raises(ConfigError, match="--block_size 200 is longer than the model's 128 positions"):
        parsed(text, "--deadline", "30m", *flags.split(), "--block_size", "200")


def test_a_prepared_dataset_is_timed_with_rows_of_its_own_length(corpus, tmp_path, probed):
    words = f"--corpus {corpus} --vocab_size 300 --block_size 64 --output_dir {tmp_path / 'data'}"
    prepare.main(words.split())
    lengths = []
    monitored = dial.probe_speed

    def probe(config, *rest):
        lengths.append(config.data.block_size)
        return monitored(config, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dial, "probe_speed", probe)
        config = parse_pretrain(["--dataset_dir", str(tmp_path / "data"), "--report_to", "none", "--deadline", "30m"])
    assert set(lengths) == {64}
    assert (config.data.block_size, config.model.max_position_embeddings) == (64, 64)


def test_dropout_of_a_small_corpus_is_that_of_the_family(tmp_path, probed):
    (tmp_path / "text.txt").write_text("some words of a text\n" * 6000)
    own, other, given = (
        parsed(tmp_path / "text.txt", "--deadline", "30m", *flags).model
        for flags in ([], ["--layer_norm_epsilon", "1e-6"], ["--hidden_dropout", "0.3"])
    )
    assert own.hidden_dropout == other.resid_pdrop == other.embd_pdrop > 0
    assert given.hidden_dropout == 0.3
    assert weights(given) == weights(own)


@pytest.mark.parametrize(
    "flags",
    [
        "--preset neox-10m --num_hidden_layers 3",
        "--vocab_size 1000 --block_size 100",
        "--per_device_train_batch_size 3 --gradient_accumulation_steps 2",
        "--learning_rate 0.001 --lr_scheduler_type cosine",
        "--max_eval_samples 9 --logging_steps 3",
    ],
)
def test_what_the_user_says_stays(text, probed, flags):
    words = flags.split()
    config = parsed(text, "--deadline", "30m", *words)
    parts = (config.model, config.tokenizer, config.data, config.training)
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--")
        kept = next(getattr(part, name) for part in parts if hasattr(part, name))
        assert str(getattr(kept, "value", kept)) == value


def test_a_corpus_that_is_used_up_before_the_time_is_ends_the_run(tmp_path, probed, capsys):
    small = tmp_path / "a [red] name longer than a terminal is wide, which stays in one line all the same.txt"
    small.write_text("some words of a text\n" * 6000)
    config = parsed(small, "--deadline", "30m")
    assert (config.training.num_train_epochs, config.training.max_steps) == (MOST_EPOCHS, -1)
    told = capsys.readouterr()
    assert re.search(r"warning: 24 epochs are enough .* the run ends after about \d+ ", told.err)
    kept = yaml.safe_load(told.out.partition("--config FILE\n")[2])
    assert (kept["num_train_epochs"], kept["corpus"]) == (MOST_EPOCHS, str(small))
    assert parsed(small, "--deadline", "30m", "--num_train_epochs", "40").training.num_train_epochs == 40
    told = capsys.readouterr().err
    assert "40 epochs\n" in told
    assert "--num_train_epochs 40: the run ends after about" in told
    kept = tmp_path / "kept.yaml"
    kept.write_text(yaml.safe_dump(config.deadline.chosen | {"corpus": str(small), "deadline": "30m"}))
    parse_pretrain(["--config", str(kept), "--report_to", "none"])
    assert "24 epochs are enough for this corpus" in capsys.readouterr().err
    write_json(tmp_path / "run.json", {"run_id": "1", "config": {"deadline": {"chosen": config.deadline.chosen}}})
    again = dial_alone(small, "--output_dir", str(tmp_path), "--resume")
    assert (again.training.num_train_epochs, again.training.max_steps) == (MOST_EPOCHS, -1)


def test_the_users_own_rhythm_stays(text, probed):
    config = parsed(text, "--deadline", "30m", "--eval_steps", "50", "--max_steps", "400")
    assert (config.training.eval_steps, config.training.save_steps, config.training.max_steps) == (50, 50, 400)
    assert config.deadline.evaluations == 0


def test_a_short_deadline_is_not_spent_on_a_probe(text, probed):
    parsed(text, "--deadline", "90s")
    assert probed.models == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--deadline 30m --preset gtp2-10m", "--preset gtp2-10m: no such preset"),
        ("--deadline 3s", r"--deadline 3s is too short: .* takes about \d+ s\. Give at least \d+s"),
        ("--deadline soon", "'soon' is no time"),
        ("--deadline 30m --warmup_steps 100", "Give a share"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(text, probed, flags, told):
    with pytest.raises(ConfigError, match=told):
        parsed(text, *flags.split())


def test_no_corpus_or_one_too_small_is_refused(tmp_path, probed):
    with pytest.raises(ConfigError, match="there is none"):
        parse_pretrain(["--deadline", "30m", "--report_to", "none"])
    (tmp_path / "note.txt").write_text("a few words " * 20)
    with pytest.raises(ConfigError, match="too few for any preset"):
        parsed(tmp_path / "note.txt", "--deadline", "30m")
    with pytest.raises(DataError, match="nothing"):
        parsed(tmp_path / "nothing", "--deadline", "30m")


def test_when_preparing_took_the_time_the_least_that_is_enough_is_said(corpus, probed):
    config = parsed(corpus, "--deadline", "2m", "--output_dir", "late")
    config.deadline.begun -= 117.0
    with pytest.raises(ConfigError, match=r"--deadline 2m is too short: .* Give at least 2m\d+s"):
        prepare_run(config)
    assert not Path("late/run.json").exists()


def test_the_warning_of_an_early_end_depends_on_no_rounding(tmp_path, probed, capsys):
    """24 times the tokens of some corpora, over the tokens again, is not 24."""
    for size in range(6000, 6040):
        (tmp_path / "text.txt").write_text("some words of a text\n" * size)
        parsed(tmp_path / "text.txt", "--deadline", "30m")
        assert "24 epochs are enough" in capsys.readouterr().err, size


@pytest.mark.parametrize("where", ["folder", "checkpoint", "url"])
def test_a_run_that_goes_on_has_what_was_chosen_for_it_wherever_it_is(text, probed, tmp_path, where):
    begun = parsed(text, "--deadline", "30m")
    place = tmp_path / "runs" / "mine"
    (place / "checkpoint-5").mkdir(parents=True)
    write_json(place / "run.json", {"run_id": "1", "config": {"deadline": {"chosen": begun.deadline.chosen}}})
    probed.speed *= 50
    flags = {
        "folder": ["--output_dir", str(place), "--resume"],
        "checkpoint": ["--resume", str(place / "checkpoint-5")],
        "url": ["--resume", f"file://{place}"],
    }
    # What is there is no whole checkpoint, which is told when the run is opened.
    config = dial_alone(text, *flags[where])
    assert config.model == begun.model
    assert config.deadline.chosen == begun.deadline.chosen
    assert len(probed.models) == 1


def dial_alone(text: Path, *flags: str):
    """The configuration of a resumed run as the dial leaves it, before the checkpoint is looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmforge.pretrain.check_config", lambda *_, **__: None)
        return parsed(text, "--deadline", "30m", *flags)


def test_resume_where_no_run_has_begun_chooses_as_a_new_run(text, probed):
    """What always passes --resume, a job that may be preempted, passes it the first time too."""
    fresh = parsed(text, "--deadline", "30m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmforge.pretrain.check_config", lambda *_, **__: None)
        assert parsed(text, "--deadline", "30m", "--resume", "--output_dir", "never/begun").model == fresh.model


def test_what_is_refused_is_refused_before_anything_is_timed_and_shown(text, monkeypatch, tmp_path):
    def timed(*_: object) -> None:
        raise AssertionError("the device was timed first")

    monkeypatch.setattr("llmforge.dial.matrix_flops", timed)
    (tmp_path / "used" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ConfigError, match="already holds a run"):
        parsed(text, "--deadline", "30m", "--output_dir", str(tmp_path / "used"))
    with pytest.raises(ConfigError, match=r"^--resume does not say which run"):
        parsed(text, "--deadline", "30m", "--resume")


def test_a_share_is_one_of_the_time(text, probed):
    config = parsed(text, "--deadline", "30m", "--eval_steps", "0.1")
    assert (config.deadline.evaluations, config.training.eval_steps) == (10, dial.UNBOUNDED)
    assert config.training.save_steps == dial.UNBOUNDED
    with pytest.raises(ConfigError, match=r"--logging_steps 0\.01 with --deadline"):
        parsed(text, "--deadline", "30m", "--logging_steps", "0.01")
    assert parsed(text, "--deadline", "30m", "--warmup_steps", "20", "--max_steps", "200").training.warmup_steps == 20


def test_a_recipe_s_own_config_stays_and_the_time_bounds_it(probed):
    config = recipe_config("pretrain_go", "demo", "--deadline", "5m", "--report_to", "none")
    plain = recipe_config("pretrain_go", "demo", "--report_to", "none")
    assert config.model == plain.model
    assert config.training.max_steps == plain.training.max_steps


def test_among_several_processes_nothing_is_tried_that_needs_them_all(text, probed, monkeypatch):
    monkeypatch.setattr(dial, "world_size", lambda: 2)
    monkeypatch.setattr(dial, "local_world_size", lambda: 2)
    parsed(text, "--deadline", "30m")
    assert probed.models == []
    monkeypatch.setattr(dial, "local_world_size", lambda: 1)
    with pytest.raises(ConfigError, match="each would choose for itself"):
        parsed(text, "--deadline", "30m")
