"""Defaults, then YAML, then flags: every trap of the stock parser, beside what ours does.

The traps are those of shared/docs/stack-facts.md, "Config parsing with HfArgumentParser"; a test called
``test_stock_…`` shows the stock behaviour, so that a new transformers version that mends it is noticed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from helpers import ROOT
from transformers import HfArgumentParser

from llmforge.errors import ConfigError
from llmforge.parsing import ForgeParser, Parsed, _nearest


@dataclass
class Text:
    """A made-up group with a field of each type."""

    corpus: str = field(metadata={"help": "Required, 100% of it."})
    learning_rate: float = field(default=0.1, metadata={"help": "A number."})
    eval_strategy: str = field(default="steps", metadata={"help": "no, steps or epoch."})
    suffixes: list[str] = field(default_factory=list, metadata={"help": "A list."})
    sizes: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "A list of numbers."})


@dataclass
class Switches:
    """Another."""

    enabled: bool = field(default=True, metadata={"help": "A switch that is on."})
    off_by_default: bool = field(default=False, metadata={"help": "A switch that is off."})
    undecided_one: bool | None = field(default=None, metadata={"help": "A switch of three positions."})
    kind: Literal["no", "some", "all"] = field(default="some", metadata={"help": "One of three."})
    max_steps: int | None = field(default=None, metadata={"help": "A number or none."})
    options: dict | str | None = field(default=None, metadata={"help": "A dictionary."})

    def __post_init__(self) -> None:
        if self.max_steps == 13:
            raise ConfigError("--max_steps 13 is unlucky.", "Give 14.")
        if self.max_steps == 666:
            raise ValueError("666 is refused")


@dataclass
class Nested:
    inner: Switches = field(default_factory=Switches)


@dataclass
class SameName:
    learning_rate: float = 0.5


@dataclass
class Percent:
    share: float = field(default=0.5, metadata={"help": "A share, such as 50% of all."})


def parse(argv: list[str] | None = None, text: str | None = None, classes: Any = (Text, Switches), **options: Any) -> Parsed:
    """Parse `argv` over the YAML `text`."""
    argv = list(argv or [])
    if text is not None:
        Path("given.yaml").write_text(text, encoding="utf-8")
        argv = ["--config", "given.yaml", *argv]
    return ForgeParser(classes, prog="llmforge test").parse(argv, **options)


def value(name: str, argv: list[str] | None = None, text: str | None = None) -> Any:
    """The value of one field; the required one is given."""
    parsed = parse(["--corpus", "c", *(argv or [])], text)
    return next(getattr(instance, name) for instance in parsed.built.values() if hasattr(instance, name))


def refusal(argv: list[str] | None = None, text: str | None = None, **options: Any) -> ConfigError:
    """The error of `parse`: one line, with a remedy."""
    with pytest.raises(ConfigError) as caught:
        parse(["--corpus", "c", *(argv or [])], text, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


# 1. YAML and flags together.


def test_stock_yaml_leaves_numbers_strings_and_takes_no_flags():
    Path("a.yaml").write_text("corpus: here\nlearning_rate: 2e-4\n")
    parser = HfArgumentParser([Text])
    assert parser.parse_yaml_file("a.yaml")[0].learning_rate == "2e-4"
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--suffixes", ".go"], look_for_args_file=False)  # corpus is in the YAML


@pytest.mark.parametrize("written", ["2e-4", "0.0002", "'2e-4'", "2.0e-4"])
def test_number_in_yaml_is_a_number(written: str):
    assert value("learning_rate", text=f"learning_rate: {written}") == 2e-4


def test_required_field_may_come_from_yaml():
    parsed = parse(["--suffixes", ".go"], "corpus: here\nlearning_rate: 2e-4")
    assert parsed.get(Text) == Text("here", 2e-4, suffixes=[".go"])


def test_missing_required_field_is_named():
    with pytest.raises(ConfigError, match=r"--corpus.*`llmforge test --help`"):
        parse([])


@pytest.mark.parametrize(
    ("argv", "text", "expected"),
    [
        ([], None, 0.1),
        ([], "learning_rate: 0.2", 0.2),
        (["--learning_rate", "0.3"], None, 0.3),
        (["--learning_rate", "0.3"], "learning_rate: 0.2", 0.3),
        (["--learning-rate=0.1"], "learning_rate: 0.2", 0.1),  # the default, given by hand, still wins
    ],
)
def test_defaults_then_yaml_then_flags(argv: list[str], text: str | None, expected: float):
    assert value("learning_rate", argv, text) == expected


@pytest.mark.parametrize(
    ("argv", "expected"), [(["--enabled"], True), (["--no_enabled"], False), (["--enabled", "false"], False), ([], False)]
)
def test_flag_of_a_switch_wins_over_yaml(argv: list[str], expected: bool):
    assert value("enabled", argv, "enabled: false") is expected


def test_list_of_the_flag_replaces_that_of_yaml():
    assert value("suffixes", ["--suffixes", ".c", ".h"], "suffixes: [.go]") == [".c", ".h"]
    assert value("suffixes", ["--suffixes"], "suffixes: [.go]") == []


@pytest.mark.parametrize(
    "written", ["max_steps: 1.5", "max_steps: many", "max_steps: true", "learning_rate: fast", "enabled: maybe"]
)
def test_impossible_value_in_yaml_names_file_and_key(written: str):
    error = refusal(text=written)
    assert f"given.yaml: {written.split(':')[0]}" in error.problem


@pytest.mark.parametrize("argv", [["--max_steps", "many"], ["--kind", "none"], ["--enabled", "maybe"], ["--learning_rate"]])
def test_impossible_value_of_a_flag_names_it(argv: list[str]):
    error = refusal(argv)
    assert argv[0] in error.problem
    assert argv[-1] in error.problem


# 2. One name, one field.


def test_same_name_in_two_dataclasses_raises_in_both_parsers():
    for parser in (HfArgumentParser, ForgeParser):
        with pytest.raises(argparse.ArgumentError, match="learning_rate"):
            parser([Text, SameName])


# 3. Flat dataclasses only.


def test_stock_takes_a_nested_dataclass_for_a_string():
    [made] = HfArgumentParser([Nested]).parse_args_into_dataclasses(["--inner", "x"], look_for_args_file=False)
    assert not dataclasses.is_dataclass(made.inner) or made.inner != Switches()


def test_nested_dataclass_is_refused():
    with pytest.raises(TypeError, match=r"Nested\.inner.*flat"):
        ForgeParser([Nested])


# 4. Percent signs.


def test_stock_help_crashes_on_a_percent_sign():
    with pytest.raises((ValueError, TypeError)):
        HfArgumentParser([Percent]).format_help()


def test_help_shows_a_percent_sign(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"], classes=[Text, Percent])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "50% of all" in shown
    assert "100% of it" in shown
    assert "(default: 0.1)" in shown


def test_help_of_everything_there_is():
    from llmforge.configs.data import DataArguments
    from llmforge.configs.training import ForgeTrainingArguments

    shown = ForgeParser([DataArguments, ForgeTrainingArguments]).format_help()
    for word in ("--block_size", "--precision", "--print_config", "--config"):
        assert word in shown


def test_help_tells_each_flag_once_and_no_default_that_says_nothing():
    from llmforge.configs.data import DataArguments

    shown = ForgeParser([DataArguments], prog="llmforge it", description="What it does.").format_help()
    assert shown.startswith("usage: llmforge it [--config FILE.yaml] [--FLAG VALUE ...]\n\nWhat it does.\n")
    assert shown.count("max_files") == 1
    assert "--max_files N " in shown
    assert shown.count("clean ") == 1
    assert "--[no_]clean " in shown
    assert "default: None" not in shown
    assert "(default: True)" in shown


# 5. Lists.


def test_stock_leaves_a_scalar_for_a_list():
    Path("a.yaml").write_text("corpus: here\nsuffixes: .go\n")
    assert HfArgumentParser([Text]).parse_yaml_file("a.yaml")[0].suffixes == ".go"


@pytest.mark.parametrize(
    ("written", "expected"),
    [("suffixes: .go", [".go"]), ("suffixes: [.go, .c]", [".go", ".c"]), ("suffixes: []", []), ("suffixes:\n  - .go", [".go"])],
)
def test_list_in_yaml(written: str, expected: list[str]):
    assert value("suffixes", text=written) == expected


def test_items_of_a_list_are_converted():
    assert value("sizes", text="sizes: ['3', 4]") == [3, 4]
    assert "sizes" in refusal(text="sizes: [3, four]").problem


def test_list_for_a_single_value_is_refused():
    assert "corpus" in refusal(text="corpus: [a, b]").problem


# 6. Unknown names, argument files, abbreviations.


def test_stock_takes_abbreviations_and_reads_an_args_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "script.args").write_text("--learning_rate 0.5")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), "--corp", "abbreviated"])
    [made] = HfArgumentParser([Text]).parse_args_into_dataclasses()
    assert (made.corpus, made.learning_rate) == ("abbreviated", 0.5)


def test_no_args_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "script.args").write_text("--learning_rate 0.5")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), "--corpus", "c"])
    assert ForgeParser([Text]).parse().get(Text) == Text("c")


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--corp", "--corpus"),  # no abbreviations
        ("--learnin_rate", "--learning_rate"),
        ("--learning-rat", "--learning"),
        ("--no_undecided", "--no_undecided_one"),
        ("--print_confg", "--print_config"),
    ],
)
def test_unknown_flag_names_the_nearest(flag: str, nearest: str):
    error = refusal([f"{flag}=5"])
    assert flag in error.problem
    assert f"Did you mean {nearest}" in error.remedy


@pytest.mark.parametrize("word", ["stray", "-x", "--zzzzzzzz"])
def test_stray_word_is_refused(word: str):
    assert word in refusal([word]).problem


@pytest.mark.parametrize(
    ("key", "nearest"), [("learning_rat", "learning_rate"), ("learning-rate", "learning_rate"), ("max_step", "max_steps")]
)
def test_unknown_key_names_file_and_nearest(key: str, nearest: str):
    error = refusal(text=f"{key}: 1")
    assert "given.yaml" in error.problem
    assert key in error.problem
    assert nearest in error.remedy


@pytest.mark.parametrize("key", ["config", "print_config", "help", "no_enabled", "1"])
def test_only_fields_are_keys(key: str):
    assert key in refusal(text=f"{key}: 1").problem


# Switches.


@pytest.mark.parametrize("name", ["enabled", "off_by_default", "undecided_one"])
def test_every_switch_goes_both_ways(name: str):
    dashed = name.replace("_", "-")
    for flag in (f"--no_{name}", f"--no-{name}", f"--no-{dashed}"):
        assert value(name, [flag]) is False
        assert value(name, [flag], f"{name}: true") is False
    for flag in (f"--{name}", f"--{dashed}"):
        assert value(name, [flag]) is True
        assert value(name, [flag], f"{name}: false") is True
        assert value(name, [flag, "false"]) is False


def test_every_switch_of_the_library_goes_both_ways():
    from llmforge.configs.generation import GenerationArguments
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.configs.training import ForgeTrainingArguments

    classes = [ModelArguments, TokenizerArguments, ForgeTrainingArguments, GenerationArguments]
    parser = ForgeParser(classes)
    names = [f.name for cls in classes for f in dataclasses.fields(cls) if f.type in (bool, bool | None)]
    assert {"tie_word_embeddings", "retrain_tokenizer", "load_best_model_at_end", "do_sample"} <= set(names)
    for name in names:
        given = parser.parse_known_args([f"--{name}"])[0]
        denied = parser.parse_known_args([f"--no-{name.replace('_', '-')}"])[0]
        assert (getattr(given, name), getattr(denied, name)) == (True, False), name


@pytest.mark.parametrize(
    ("written", "expected"), [("true", True), ("no", False), ("'false'", False), ("on", True), ("null", None)]
)
def test_switch_in_yaml(written: str, expected: bool | None):
    assert value("undecided_one", text=f"undecided_one: {written}") is expected


# What YAML does to words and numbers.


@pytest.mark.parametrize("name", ["eval_strategy", "kind"])
def test_bare_no_in_yaml_is_the_word(name: str):
    assert value(name, text=f"{name}: no") == "no"
    assert value(name, text=f"{name}: 'no'") == "no"


def test_null_in_yaml_is_none_where_none_is_allowed():
    assert value("max_steps", text="max_steps: null") is None


@pytest.mark.parametrize(
    "written", ["suffixes: null", "sizes:", "learning_rate: null", "eval_strategy: {a: 1}", "suffixes: {a: 1}"]
)
def test_value_of_another_shape_is_refused(written: str):
    assert written.split(":")[0] in refusal(text=written).problem


def test_dictionary_in_yaml():
    assert value("options", text="options: {min_lr: 0.1}") == {"min_lr": 0.1}


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 0.1\nlearning_rate: 0.2",
        "options: {a: 1, a: 2}",
        "suffixes: &x [.go]\nsizes: *x",
        "corpus: !!python/object/apply:os.getcwd []",
        "corpus: !mine x",
        "corpus: [",
        "a: b: c",
        "? [a, b]\n: 1",
        "- corpus",
        "just words",
        "corpus: a\n---\ncorpus: b",
    ],
)
def test_yaml_that_is_not_plain_is_refused(text: str):
    assert "given.yaml" in refusal(text=text).problem


def test_alias_bomb_is_refused_at_once():
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    assert "alias" in refusal(text="\n".join(rows)).problem


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_unreadable_file_is_refused(content: bytes | None):
    if content is None:
        Path("given.yaml").mkdir()
    else:
        Path("given.yaml").write_bytes(content)
    assert "given.yaml" in refusal(["--config", "given.yaml"]).problem


def test_empty_file_gives_the_defaults():
    assert parse(["--corpus", "c"], "# nothing\n").get(Text) == Text("c")


# --config.


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, rate in (("demo", 1.0), ("large", 2.0)):
        (folder / f"{name}.yaml").write_text(f"corpus: c\nlearning_rate: {rate}\n")
    return folder


@pytest.mark.parametrize("argv", [["--config", "large"], ["--config=large"], ["--config", "configs/large.yaml"]])
def test_config_by_name_or_path(configs: Path, argv: list[str]):
    parsed = parse(argv, config_folder=configs)
    assert parsed.get(Text).learning_rate == 2.0
    assert parsed.config_path.stem == "large"


def test_default_config_is_what_a_bare_command_runs(configs: Path):
    assert parse([], config_folder=configs, default_config="demo").get(Text).learning_rate == 1.0
    assert parse(["--config", "large"], config_folder=configs, default_config="demo").get(Text).learning_rate == 2.0


def test_file_here_wins_over_a_name(configs: Path):
    Path("large").write_text("corpus: c\nlearning_rate: 3.0\n")
    assert parse(["--config", "large"], config_folder=configs).get(Text).learning_rate == 3.0


def test_unknown_config_lists_the_known_ones(configs: Path):
    error = refusal(["--config", "huge"], config_folder=configs)
    assert "--config huge" in error.problem
    assert "demo, large" in error.remedy


def test_unknown_config_without_names_asks_for_a_path():
    assert "path" in refusal(["--config", "huge"]).remedy


def test_config_without_a_value_is_refused():
    assert "--config" in refusal(["--config"]).problem


# --print_config, --help, errors.


def printed(argv: list[str], capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        ForgeParser(options.pop("classes", (Text, Switches))).parse([*argv, "--print_config"], **options)
    assert stop.value.code == 0
    return capsys.readouterr().out


ARGUMENTS = [
    ["--corpus", "c"],
    ["--corpus", "no", "--eval_strategy", "no", "--kind", "no"],
    ["--corpus", "1.50", "--learning_rate", "1e-5", "--max_steps", "7", "--sizes", "5"],
    ["--corpus", "naïve: [x] # y", "--suffixes", ".go", "null", "--no_enabled", "--undecided_one", "--no-off-by-default"],
    ["--corpus", "line one\nline two\n", "--suffixes", "  spaced ", "'quoted'", "--sizes"],
    ["--corpus", "c", "--options", '{"a": 1}'],
    ["--corpus", "0123", "--suffixes", "2024-01-01", "1_000", "0x10", "~"],
]


@pytest.mark.parametrize("argv", ARGUMENTS)
def test_printed_config_gives_the_same_configuration(argv: list[str], capsys: pytest.CaptureFixture[str]):
    text = printed(argv, capsys)
    again = parse([], text)
    assert again.built == parse(argv).built
    Path("second.yaml").write_text(text)
    assert printed(["--config", "second.yaml"], capsys) == text


def test_printed_config_holds_only_what_differs_from_the_defaults(capsys: pytest.CaptureFixture[str]):
    text = printed(["--corpus", "c", "--learning_rate", "0.1", "--max_steps", "3", "--enabled"], capsys)
    assert yaml.safe_load(text) == {"corpus": "c", "max_steps": 3}


def test_printed_config_merges_yaml_and_flags(capsys: pytest.CaptureFixture[str]):
    Path("a.yaml").write_text("corpus: here\nlearning_rate: 2e-4\nmax_steps: 5\n")
    text = printed(["--config", "a.yaml", "--max_steps", "6"], capsys)
    assert yaml.safe_load(text) == {"corpus": "here", "learning_rate": 2e-4, "max_steps": 6}


def training_classes() -> list[type]:
    from llmforge.configs.training import ForgeTrainingArguments

    return [ForgeTrainingArguments]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--output_dir", "x"], {"output_dir": "x"}),
        (["--report_to", "none", "--learning_rate", "1e-3"], {"report_to": ["none"], "learning_rate": 1e-3}),
        (["--lr_scheduler_kwargs", '{"min_lr": 0.1}'], {"lr_scheduler_kwargs": '{"min_lr": 0.1}'}),
        (["--debug", "underflow_overflow"], {"debug": "underflow_overflow"}),
        (["--eval_strategy", "no", "--optim", "sgd"], {"eval_strategy": "no", "optim": "sgd"}),
    ],
)
def test_printed_training_arguments(argv: list[str], expected: dict, capsys: pytest.CaptureFixture[str]):
    text = printed(argv, capsys, classes=training_classes())
    found = yaml.safe_load(text)
    if isinstance(found.get("debug"), list):
        found["debug"] = " ".join(found["debug"])
    assert found == expected
    [again] = parse([], text, classes=training_classes()).built.values()
    [first] = parse(argv, classes=training_classes()).built.values()
    assert again.to_dict() == first.to_dict()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").glob("pretrain_*/*.yaml")), ids=lambda path: path.stem)
def test_printed_config_of_a_recipe_finds_its_files_from_here(path: Path, capsys: pytest.CaptureFixture[str]):
    """A path in a YAML file may be relative to it; printed and saved elsewhere, it must still lead there."""
    from llmforge.pretrain import parse_pretrain

    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    has_data = given.get("corpus") or given.get("source")
    argv = ["--config", str(path), "--print_config", *([] if has_data else ["--corpus", str(path.parent)])]
    with pytest.raises(SystemExit):
        parse_pretrain(argv)
    shown = yaml.safe_load(capsys.readouterr().out)
    sources = [{"path": shown["corpus"]}] if "corpus" in shown else [json.loads(source) for source in shown["source"]]
    assert all(source.get("format") == "hf" or Path(source["path"]).exists() for source in sources)
    assert shown.get("max_steps") == given.get("max_steps")


def test_refusals_of_a_dataclass_are_config_errors():
    assert str(refusal(["--max_steps", "13"])) == "--max_steps 13 is unlucky. Give 14."
    assert refusal(["--max_steps", "666"]).problem.startswith("666 is refused")


def test_impossible_values_are_refused_even_when_only_printing():
    assert "unlucky" in refusal(["--max_steps", "13", "--print_config"]).problem


def test_nothing_is_written_to_the_terminal_by_a_refusal(capsys: pytest.CaptureFixture[str]):
    refusal(["--learnin_rate", "5"])
    assert capsys.readouterr() == ("", "")


def test_dry_run_is_there_only_where_it_is_asked_for():
    assert "--dry_run" in refusal(["--dry_run"]).problem
    assert ForgeParser([Text], dry_run=True).parse(["--corpus", "c", "--dry-run"]).dry_run
    assert not ForgeParser([Text], dry_run=True).parse(["--corpus", "c"]).dry_run


def test_arguments_default_to_those_of_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["llmforge", "--corpus", "from-argv"])
    assert ForgeParser([Text]).parse().get(Text).corpus == "from-argv"


def test_parsing_starts_no_work():
    parse(["--corpus", "nowhere"])
    assert os.listdir() == []


@dataclass
class Sources:
    corpus: str | None = None
    dataset_dir: str | None = None
    source: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)


def sources(argv: list[str], folder: Path, text: str) -> Sources:
    (folder / "c.yaml").write_text(text)
    return ForgeParser([Sources], prog="p").parse(["--config", str(folder / "c.yaml"), *argv]).get(Sources)


def test_sources_may_be_given_one_flag_each_or_together(tmp_path: Path):
    for argv in (
        ["--source", "path=a", "--suffixes", ".x", "--source", "path=b"],
        ["--source", "path=a", "path=b", "--suffixes=.x"],
    ):
        assert sources(argv, tmp_path, "").source == ["path=a", "path=b"]
    assert sources(["--source=path=a", "--source=path=b"], tmp_path, "").source == ["path=a", "path=b"]


def test_sources_of_a_file_are_mappings_found_from_its_folder(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    text = "source:\n- {path: notes, weight: 2}\n- {path: 'gs://bucket/notes'}\n- path=plain\n"
    first, second, third = sources([], tmp_path, text).source
    assert json.loads(first) == {"path": os.path.relpath(tmp_path / "notes"), "weight": 2}
    assert json.loads(second) == {"path": "gs://bucket/notes"}
    assert third == "path=plain"
    assert [json.loads(item) for item in sources([], tmp_path, "source: {path: one}").source] == [{"path": "one"}]


@pytest.mark.parametrize("flag", ["corpus", "dataset_dir", "source"])
def test_a_flag_for_the_data_sets_aside_what_the_file_says_of_it(tmp_path: Path, flag: str):
    for text in ("source:\n- path=a", "corpus: a", "dataset_dir: a"):
        found = sources([f"--{flag}", "path=mine"], tmp_path, text + "\nsuffixes: .x")
        expected = {"corpus": None, "dataset_dir": None, "source": [], "suffixes": [".x"]}
        assert vars(found) == expected | {flag: ["path=mine"] if flag == "source" else "path=mine"}


def test_a_name_that_is_only_a_little_alike_is_no_guess():
    """`finetune --deadline` is no slip for --dedup_shingle."""
    assert _nearest("--deadline", ["--dedup_shingle", "--output_dir"]) == "See --help for the known ones."
    assert _nearest("--dedline", ["--deadline", "--dedup_shingle"]) == "Did you mean --deadline?"
