"""llmforge generate, as a user meets it: prompts by every way, and a dialogue."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from helpers import tiny_model

from llmforge import cli, generate
from llmforge.configs.generation import GenerateArguments, GenerationArguments
from llmforge.errors import ConfigError
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.runtime.logs import printable
from llmforge.sampling.completions import complete
from llmforge.sampling.dialogue import Dialogue, converse, typed
from llmforge.tasks.files import BUILT_IN

FEW = ["--max_new_tokens", "8"]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model("gpt2-10m", tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def found(folder):
    return load_pretrained_model(str(folder))


def wanted(found, *prompts: str, seed: int = 0) -> list[str]:
    return complete(found.model, found.tokenizer, prompts, GenerationArguments(max_new_tokens=8), seed=seed)


def ran(folder: Path, *flags: str) -> int:
    return cli.main(["generate", "--model", str(folder), *FEW, *flags])


def test_one_prompt_is_shown_with_what_follows(folder, found, capsys):
    assert ran(folder, "--prompt", "func main") == 0
    assert capsys.readouterr().out == f"func main{wanted(found, 'func main')[0]}\n"
    assert ran(folder, "--prompt", "func main", "--seed", "5") == 0
    assert capsys.readouterr().out == f"func main{wanted(found, 'func main', seed=5)[0]}\n"


@pytest.mark.parametrize("flags", [[], ["--prompt", "-"]])
def test_standard_input_is_one_prompt(flags, folder, found, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("func a\nfunc b\n"))
    assert ran(folder, *flags, "--json") == 0
    [record] = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["prompt"] == "func a\nfunc b"
    assert record["text"] == wanted(found, "func a\nfunc b")[0]


def test_an_empty_prompt_begins_a_document(folder, found, capsys):
    assert ran(folder, "--prompt", "", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == wanted(found, "")[0]


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_of_prompts_becomes_a_file_of_completions(name, folder, found, capsys):
    prompts = ["func a", "für 漢字", "package x"]
    lines = (
        [json.dumps({"prompt": prompt, "n": 1}) for prompt in prompts] if name.endswith("l") else [*prompts[:1], "", *prompts[1:]]
    )
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert ran(folder, "--prompt_file", name, "--output", "out.jsonl") == 0
    records = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["prompt"] for record in records] == prompts
    assert [record["text"] for record in records] == wanted(found, *prompts)
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert {record["ended"] for record in records} <= {"length", "end of text"}
    assert ("1 empty lines are no prompts" in capsys.readouterr().err) == name.endswith("txt")


@pytest.mark.parametrize("flags", [[], ["--prompt_file", "prompts.txt", "--output", "out.jsonl"]])
def test_who_asks_for_more_than_the_model_was_trained_on_at_once_is_told(flags, tokenizer, tmp_path, capsys):
    final = tmp_path / "run" / "final"
    tiny_model("gpt2-10m", tokenizer).save_pretrained(final)
    tokenizer.save_pretrained(final)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"config": {"data": {"block_size": 12}}}))
    Path("prompts.txt").write_text("func\nx\n")
    words = flags or ["--prompt", "func"]
    assert cli.main(["generate", "--model", str(final), *words, "--max_new_tokens", "30", "--temperature", "2"]) == 0
    assert "longer than the 12 tokens that the model was trained on at a time: beyond them it guesses" in capsys.readouterr().err
    assert cli.main(["generate", "--model", str(final), *words, "--max_new_tokens", "3"]) == 0
    assert "guesses" not in capsys.readouterr().err


def test_strategies_complete_each_prompt_each_way(folder, capsys):
    assert ran(folder, "--prompt", "func", "--strategies", "greedy", "temperature=0.5") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["strategy"] for record in records] == ["greedy", "temperature=0.5"]
    assert records[0]["text"] != records[1]["text"]


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (["--prompt", "x", "--prompt_file", "y"], "--prompt_file y does not go with --prompt", 2),
        (["--interactive", "--prompt", "x"], "does not go with --interactive", 2),
        (["--interactive", "--json"], "does not go with --output or --json", 2),
        (["--prompt_file", "gone.txt"], "gone.txt cannot be read", 3),
        (["--prompt_file", "empty.txt"], "empty.txt has no prompts", 3),
        (["--prompt_file", "bad.jsonl"], "bad.jsonl, line 2 has no field prompt", 3),
        (["--prompt_file", "number.jsonl"], "line 1: the prompt is no text", 3),
        (["--prompt", "func " * 2000], "the model has 1024 positions", 2),
        (["--prompt", "x", "--temperature", "0"], "--temperature 0", 2),
        (["--prompt", "x", "--output", "file/out.jsonl"], "Cannot write", 5),
    ],
)
def test_what_is_refused_is_told_in_one_line(flags, words, code, folder, capsys):
    Path("empty.txt").write_text("\n\n")
    Path("bad.jsonl").write_text('{"prompt": "x"}\n{"text": "y"}\n')
    Path("number.jsonl").write_text('{"prompt": 3}\n')
    Path("file").write_text("")
    assert ran(folder, *flags) == code
    error = capsys.readouterr().err
    assert words in error
    assert sum(line.startswith("error: ") for line in error.splitlines()) == 1


def test_a_terminal_without_a_prompt_is_not_waited_for(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(ConfigError, match="There is no prompt"):
        generate.read_prompts(GenerateArguments(), GenerationArguments())


# --- a dialogue -----------------------------------------------------------------------------------


def spoken(found, *lines: str, settings: GenerationArguments | None = None, task=None) -> tuple[Dialogue, list[str]]:
    """A dialogue of these lines, and the prompts it was asked with."""
    waiting, asked = list(lines), []

    def read(prompt: str) -> str:
        asked.append(prompt)
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return converse(found, settings or GenerationArguments(max_new_tokens=8), 0, task, read), asked


def test_each_answer_goes_on_from_all_that_was_said(found, capsys):
    dialogue, _ = spoken(found, "func a", "func b")
    [first] = wanted(found, "func a")
    [second] = wanted(found, f"func a{first}\nfunc b", seed=1)
    assert dialogue.turns.text == f"func a{first}\nfunc b{second}"
    assert capsys.readouterr().out.endswith(f"typed.\n{printable(first)}\n{printable(second)}\n")


def test_reset_forgets_and_quit_ends(found):
    dialogue, asked = spoken(found, "func a", "/reset", "func b", "/quit", "func c")
    assert dialogue.turns.text == "func b" + wanted(found, "func b", seed=1)[0]
    assert len(asked) == 4


def test_settings_are_changed_and_wrong_ones_told(found, capsys):
    dialogue, _ = spoken(
        found, "/temperature 0.25", "/top_k 5", "/max_new_tokens 3", "/temperature hot", "/temperature -1", "/sing"
    )
    assert (dialogue.args.temperature, dialogue.args.top_k, dialogue.args.max_new_tokens) == (0.25, 5, 3)
    shown = capsys.readouterr().out
    for words in ("[temperature 0.25]", "/temperature hot: not a number", "--temperature -1.0 is not", "/sing: no such command"):
        assert words in shown


def test_who_sets_a_temperature_wants_no_beams(found):
    beams = GenerationArguments(max_new_tokens=8, num_beams=4, do_sample=False)
    dialogue, _ = spoken(found, "/max_new_tokens 5", settings=beams)
    assert not dialogue.args.samples
    dialogue, _ = spoken(found, "/temperature 0.7", settings=beams)
    assert (dialogue.args.samples, dialogue.args.temperature) == (True, 0.7)


def test_several_lines_are_one_text():
    lines = iter(["one \\", "two", '"""', "a", "", "b", '"""', "last"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert list(typed(read)) == ["one \ntwo", "a\n\nb", "last"]


def test_save_writes_what_was_said(found, tmp_path):
    dialogue, _ = spoken(found, "func a", "/save said.txt")
    assert Path("said.txt").read_text(encoding="utf-8") == dialogue.turns.text + "\n"


def test_a_long_history_keeps_its_end(found, capsys):
    dialogue, _ = spoken(found, "func x " * 600, "again")
    assert "only the last" in capsys.readouterr().out
    assert "again" in dialogue.turns.text


def test_the_fields_of_a_task_are_asked_one_after_the_other(found, capsys):
    task = BUILT_IN["qa"]
    dialogue, asked = spoken(found, "", "", "open a file", "data", "/reset", "", "why", "/save said.txt", task=task)
    assert asked[:5] == ["context> ", "question> ", "question> ", "context> ", "question> "]
    assert "needs the field question" in capsys.readouterr().out
    assert dialogue.turns.rows == [{"question": "why"}]
    [answer] = wanted(found, "Question: why\nAnswer:", seed=1)
    assert Path("said.txt").read_text(encoding="utf-8") == f"Question: why\nAnswer:{answer}\n"


def test_of_a_long_chat_the_earliest_turns_go(found, capsys):
    long = "func x " * 180
    dialogue, _ = spoken(found, long, long, "and?", "func x " * 600, "again", task=BUILT_IN["chat"])
    told = capsys.readouterr().out
    assert "the first 2 messages no longer fit in the context" in told
    assert "is too long: " in told
    said = [message["content"] for message in dialogue.turns.messages]
    assert [said[0], said[2], said[4]] == [long, "and?", "again"]


def test_ctrl_c_stops_an_answer_and_not_the_dialogue(found, monkeypatch, capsys):
    from llmforge.sampling import dialogue as module

    def interrupted(model, tokenizer, ids, args, seed, show):
        show("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "continue_ids", interrupted)
    dialogue, asked = spoken(found, "func a", "func b")
    assert dialogue.turns.text == "func ahalf\nfunc bhalf"
    assert len(asked) == 3
    assert capsys.readouterr().out.count("[stopped]") == 2


def test_the_command_opens_a_dialogue(folder, monkeypatch, capsys):
    lines = iter(["func a", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr("llmforge.generate.converse", lambda *given: converse(*given, read=lambda prompt: next(lines)))
    assert ran(folder, "--interactive") == 0
    assert "/help" in capsys.readouterr().out
