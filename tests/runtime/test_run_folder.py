"""The folder of a run and its two records."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmforge.errors import ConfigError, StorageError
from llmforge.runtime.run_folder import RunFolder, holds_a_run, is_end_of, redact, refuse_used_folder, reserve
from llmforge.runtime.versions import installed_versions


def test_folders_are_numbered(tmp_path: Path):
    root = tmp_path / "runs"
    assert [reserve("go-demo", root).name for _ in range(3)] == ["go-demo-001", "go-demo-002", "go-demo-003"]
    assert reserve("go", root).name == "go-001"
    assert (root / "go-001").is_dir()


def test_number_follows_the_highest(tmp_path: Path):
    for name in ("a-007", "a-b-050", "a-x", "xa-100", "a-1000"):
        (tmp_path / name).mkdir()
    assert reserve("a", tmp_path).name == "a-1001"
    assert reserve("a-b", tmp_path).name == "a-b-051"


def test_name_is_taken_literally(tmp_path: Path):
    (tmp_path / "axb-005").mkdir()
    assert reserve("a.b", tmp_path).name == "a.b-001"


def test_no_two_runs_get_the_same_folder(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: reserve("a", tmp_path), range(64)))
    assert len(set(folders)) == 64
    assert len(list(tmp_path.iterdir())) == 64


def test_folder_taken_in_between_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process makes the same folder between the look and the making."""
    real, waiting = Path.mkdir, [True]

    def mkdir(self: Path, *args, **kwargs) -> None:
        if self.name == "a-001" and waiting and waiting.pop():
            real(self)
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert reserve("a", tmp_path).name == "a-002"


def test_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file.*--output_dir"):
        reserve("a", tmp_path / "file")


@pytest.mark.parametrize("content", ["run.json", "checkpoint-5/"])
def test_used_folder_is_refused(tmp_path: Path, content: str):
    (tmp_path / content).mkdir() if content.endswith("/") else (tmp_path / content).touch()
    assert holds_a_run(tmp_path)
    with pytest.raises(ConfigError, match=r"--output_dir .* already holds a run\. Give --resume"):
        refuse_used_folder(tmp_path)


def test_file_for_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output_dir .*file is a file"):
        refuse_used_folder(tmp_path / "file")


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_folder_without_a_run_is_fine(tmp_path: Path, content: str | None):
    if content:
        (tmp_path / content).touch()
    refuse_used_folder(tmp_path)
    refuse_used_folder(tmp_path / "new")


# run.json.


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_record_says_where_the_run_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["llmforge", "pretrain", "--corpus", "my code"])
    run = RunFolder(tmp_path)
    run.write_record(name="a")
    written = record(tmp_path)
    assert written["run_id"] == run.run_id
    assert written["command"] == "llmforge pretrain --corpus 'my code'"
    assert written["folder"] == str(Path.cwd())
    assert written["versions"]["transformers"] == installed_versions()["transformers"]
    assert {"created", "host", "system", "python"} <= set(written)


def test_record_grows_and_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["first"])
    first = RunFolder(tmp_path)
    first.write_record(name="a", config={"seed": 1})
    monkeypatch.setattr(sys, "argv", ["second"])
    again = RunFolder(tmp_path)
    again.write_record(config={"seed": 2}, parameters=5)
    written = record(tmp_path)
    assert again.run_id == first.run_id == written["run_id"]
    assert (written["name"], written["config"], written["parameters"], written["command"]) == ("a", {"seed": 2}, 5, "first")


def test_two_runs_have_two_identities(tmp_path: Path):
    assert RunFolder(tmp_path / "a").run_id != RunFolder(tmp_path / "b").run_id


def test_only_the_first_process_writes(tmp_path: Path):
    run = RunFolder(tmp_path, is_main=False)
    run.write_record(name="a")
    run.write_exit(0, "finished")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", "hf_hidden"],
        ["--hub-token", "hf_hidden"],
        ["--hub_token=hf_hidden"],
        ["--hub-token=hf_hidden"],
        ["--push_to_hub_token", "hf_hidden"],
        ["--some_api_key=hf_hidden"],
        ["--client_secret", "hf_hidden"],
        ["--password", "hf_hidden", "--seed", "1"],
    ],
)
def test_no_secret_of_the_command_line_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    monkeypatch.setattr(sys, "argv", ["llmforge", "pretrain", *words, "--corpus", "docs"])
    RunFolder(tmp_path).write_record(name="a")
    assert "hf_hidden" not in (tmp_path / "run.json").read_text()
    assert record(tmp_path)["command"].endswith("--corpus docs")
    assert words[0].split("=")[0] in record(tmp_path)["command"]


def test_what_only_sounds_like_a_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["llmforge", "--special_tokens", "<A>", "--tokenizer", "folder", "--max_new_tokens", "5", "--special-tokens=<B>"]
    monkeypatch.setattr(sys, "argv", words)
    RunFolder(tmp_path).write_record(config={"special_tokens": ["<A>"], "tokenizer": "folder", "max_new_tokens": 5})
    written = record(tmp_path)
    assert "redacted" not in json.dumps(written)
    assert written["config"]["tokenizer"] == "folder"


@pytest.mark.parametrize(
    "secrets", [{"hub_token": "hf_hidden"}, {"nested": {"api_key": "hf_hidden"}}, {"remotes": [{"client_secret": "hf_hidden"}]}]
)
def test_no_secret_of_the_config_is_written(tmp_path: Path, secrets: dict):
    RunFolder(tmp_path).write_record(config={"training": {**secrets, "seed": 1}})
    assert "hf_hidden" not in (tmp_path / "run.json").read_text()
    assert record(tmp_path)["config"]["training"]["seed"] == 1


def test_token_of_the_training_arguments_is_not_written(tmp_path: Path):
    from helpers import training_args

    args = training_args(tmp_path / "out", hub_token="hf_hidden")
    RunFolder(tmp_path).write_record(config={"training": args.to_dict()})
    assert "hf_hidden" not in (tmp_path / "run.json").read_text()


def test_redaction_keeps_what_is_empty_or_no_text():
    value = {"hub_token": None, "pad_token": "", "keys": 3, "use_key": True, "list": [1, "x"]}
    assert redact(value) == value


# exit.json.


def exit_record(folder: Path) -> dict:
    return json.loads((folder / "exit.json").read_text(encoding="utf-8"))


def test_exit_says_how_it_ended(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.write_exit(6, "diverged", 12, newest="checkpoint-10")
    written = exit_record(tmp_path)
    assert (written["exit_code"], written["reason"], written["step"]) == (6, "diverged", 12)
    assert written["newest_checkpoint"] == "checkpoint-10"
    assert written["undelivered_uploads"] == []
    assert written["seconds"] >= 0
    assert written["time"].endswith("Z")


def test_exit_of_a_later_run_replaces_the_earlier(tmp_path: Path):
    RunFolder(tmp_path).write_exit(75, "interrupted")
    again = RunFolder(tmp_path)
    again.begin()
    again.write_exit(0, "finished", 5)
    assert exit_record(tmp_path)["exit_code"] == 0
    assert exit_record(tmp_path)["newest_checkpoint"] is None


def test_exit_of_a_run_that_never_had_a_folder_writes_nothing(tmp_path: Path):
    RunFolder(tmp_path / "none").write_exit(2, "refused")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_forgets_how_it_ended(tmp_path):
    run = RunFolder(tmp_path)
    run.write_record(final={"which": "best"}, name="x")
    run.write_exit(0, "finished", 8)
    again = RunFolder(tmp_path)
    again.begin()
    assert not (tmp_path / "exit.json").exists()
    record = json.loads((tmp_path / "run.json").read_text())
    assert "final" not in record
    assert (record["name"], record["run_id"]) == ("x", run.run_id)


def test_the_process_that_failed_says_why_and_the_others_do_not_say_otherwise(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path, is_main=False)
    second.write_exit(1, "the connection is gone")
    assert not (tmp_path / "exit.json").exists()
    second.write_exit(3, "bad data", heard=True)
    first.write_exit(1, "the connection is gone")
    assert json.loads((tmp_path / "exit.json").read_text())["exit_code"] == 3


def test_an_end_is_of_the_start_that_it_belongs_to(tmp_path):
    run = RunFolder(tmp_path)
    run.begin()
    run.write_record(name="mine")
    run.write_exit(75, "interrupted")
    record, end = json.loads((tmp_path / "run.json").read_text()), exit_record(tmp_path)
    assert is_end_of(end, record)
    again = RunFolder(tmp_path)
    again.begin()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["starts"] == 2
    assert not is_end_of(end, record)
    assert not is_end_of({}, record)
    again.write_exit(0, "finished")
    assert is_end_of(exit_record(tmp_path), record)
    assert is_end_of({"exit_code": 0}, {"run_id": "of a version that did not count"})
