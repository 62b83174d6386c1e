"""Task files: what they render, what they refuse, and that they are found again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError, DataError
from llmforge.tasks.files import BUILT_IN, find_task, load_task, parse_fields, task_for
from llmforge.tasks.task import Piece

DIAGNOSTICS = """\
name: diagnostics
fields:
  equipment: {required: true, aliases: [Machine]}
  error_codes: {list: true}
  solution: {required: true}
prompt: |-
  Equipment: {{ equipment }}
  Error codes: {{ error_codes or 'none' }}
  Solution:
completion: " {{ solution }}"
stop: ["\\nEquipment:"]
generation: {max_new_tokens: 40, do_sample: false}
truncate: right
"""
TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "so"},
]
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def task_of(text: str, name: str = "task.yaml"):
    Path(name).write_text(text, encoding="utf-8")
    return find_task(name)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_row_becomes_prompt_and_completion():
    task = task_of(DIAGNOSTICS)
    row = {"Machine": "Volvo L60H", "Error Codes": ["P1", "P2"], "solution": "Bleed it.", "id": 7}
    assert task.render(row) == ("Equipment: Volvo L60H\nError codes: P1, P2\nSolution:", " Bleed it.")
    assert task.render({"equipment": "x", "solution": "y"}) == ("Equipment: x\nError codes: none\nSolution:", " y")
    assert task.pieces({"equipment": "x", "solution": "y"})[1] == Piece(" y", True)
    assert task.render_prompt({"equipment": "x"}) == "Equipment: x\nError codes: none\nSolution:"
    assert (task.stop, task.truncate) == (("\nEquipment:",), "right")


def test_a_field_s_name_in_the_words_of_a_prompt_is_no_field():
    task = task_of(DIAGNOSTICS.replace("Solution:", "Find the solution of it:"))
    assert task.render_prompt({"equipment": "x"}) == "Equipment: x\nError codes: none\nFind the solution of it:"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"equipment": "x"}, "'solution' of the task diagnostics is missing"),
        ({"equipment": " ", "solution": "y"}, "'equipment' of the task diagnostics is empty"),
        ({"equipmnt": "x", "solution": "y"}, "'equipmnt' is no field of the task diagnostics. Did you mean equipment?"),
        ({"equipment": ["x"], "solution": "y"}, "holds list, no text (a field with list: true holds several)"),
        ({"equipment": "x", "Machine": "y", "solution": "z"}, "'equipment' stands there twice"),
        ({"equipment": {"a": 1}, "solution": "y"}, "holds dict, no text"),
        (["x"], "no object with fields"),
    ],
)
def test_a_row_is_refused_by_its_line(row, told):
    with pytest.raises(DataError) as error:
        task_of(DIAGNOSTICS).render(row, "train.jsonl:3")
    assert one_line(error).startswith("train.jsonl:3: ")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("truncate: right", "trunkate: right", "unknown key 'trunkate'. Did you mean truncate?"),
        ("truncate: right", "truncate: both", "truncate 'both' is no side"),
        ("{list: true}", "{lists: true}", "field 'error_codes': unknown key 'lists'. Did you mean list?"),
        ("[Machine]", "[Solution]", "'solution' and 'equipment' are both called 'solution'"),
        ("do_sample: false", "do_sampel: false", "unknown key 'do_sampel'. Did you mean do_sample?"),
        ("max_new_tokens: 40", "max_new_tokens: 4.5", "max_new_tokens is 4.5, no int"),
        ("max_new_tokens: 40", "temperature: 0.0", "--temperature 0.0"),
        ("  Solution:\n", '  Solution:\nkind: "chats"\n', "kind 'chats' is none. Give one of fields, chat"),
        ("{{ equipment }}", "{{ equipmnet }}", "prompt line 1: 'equipmnet' is undefined. This one has equipment, error_codes"),
        ("{{ equipment }}", "{{ equipment.upper() }}", "prompt line 1: it reaches for the attribute 'upper'"),
        ("{{ equipment }}", "{{ equipment['__class__'] }}", "reaches for the attribute '__class__'"),
        ("{{ equipment }}", "{{ equipment | attr('x') }}", "reaches for the attribute 'attr'"),
        ("{{ equipment }}", "{{ ([equipment] | map(attribute='__class__')) | list }}", "reaches for the attribute '__class__'"),
        ("{{ equipment }}", "{{ equipment", "prompt line"),
        ("  Solution:\n", "  Solution: \n", "prompt ends with a space"),
        ("name: diagnostics", "name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("completion:", "complection:", "unknown key 'complection'"),
    ],
)
def test_a_task_file_is_refused_in_one_line(old, new, told):
    assert old in DIAGNOSTICS
    with pytest.raises(ConfigError) as error:
        task_of(DIAGNOSTICS.replace(old, new))
    assert told in one_line(error)
    assert str(error.value).startswith("task.yaml")


def test_a_chat_template_reaches_for_no_private_attribute():
    with pytest.raises(ConfigError, match="reaches for the attribute '__class__'"):
        task_of('kind: chat\nchat_template: "{{ messages.__class__ }}"')


def test_a_task_is_saved_and_found_again(tmp_path):
    task = task_of(DIAGNOSTICS)
    assert load_task(tmp_path / "nowhere") is None
    (tmp_path / "model").mkdir()
    task.save(tmp_path / "model")
    assert load_task(tmp_path / "model") == task == find_task(str(tmp_path / "model"))
    for built_in in BUILT_IN.values():
        built_in.save(tmp_path / "model")
        assert load_task(tmp_path / "model") == built_in
    with pytest.raises(ConfigError, match="--task qq: no such file"):
        find_task("qq")


def test_built_in_tasks_are_known_by_their_rows():
    question = {"question": "Why?", "answer": "So.", "context": "Once."}
    assert task_for(question).render(question) == ("Once.\n\nQuestion: Why?\nAnswer:", " So.")
    assert task_for({"instruction": "Do", "response": "Done"}).name == "qa"
    assert task_for({"prompt": "a", "completion": "b"}).render({"prompt": "a", "completion": "b"}) == ("a", "b")
    assert task_for({"messages": []}).kind == "chat"
    assert task_for({"text": "a"}) is None


def test_of_a_chat_all_that_the_assistant_says_is_learnt(tokenizer):
    chat = BUILT_IN["chat"]
    pieces = chat.pieces({"messages": TURNS})
    assert pieces == [
        ("User: hi\n\nAssistant:", False),
        (" ho", True),
        ("\n\nUser: and?\n\nAssistant:", False),
        (" so", True),
    ]
    prompt, completion = chat.render({"messages": TURNS})
    assert prompt + completion == tokenizer.apply_chat_template(TURNS, chat_template=_template(chat), tokenize=False)
    assert prompt == tokenizer.apply_chat_template(
        TURNS[:-1], chat_template=_template(chat), tokenize=False, add_generation_prompt=True
    )
    # What is said after the last answer is not there to be learnt from.
    assert chat.pieces({"messages": [*TURNS, {"role": "user", "content": "bye"}]}) == pieces
    with pytest.raises(DataError, match="rows:2: the assistant says nothing"):
        chat.pieces({"messages": TURNS[:1]}, "rows:2")
    with pytest.raises(DataError, match="rows:2: record without a field 'messages'"):
        chat.pieces({"text": "x"}, "rows:2")


def _template(chat) -> str:
    from llmforge.data.formats.templates import CHAT_TEMPLATE

    return chat.chat_template or CHAT_TEMPLATE


def test_a_tokenizers_own_chat_template_is_taken(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", CHATML, raising=False)
    task = BUILT_IN["chat"].for_tokenizer(tokenizer)
    end = tokenizer.eos_token
    whole = "".join(piece.text for piece in task.pieces({"messages": TURNS}))
    assert whole == f"<|user|>hi{end}<|assistant|>ho{end}<|user|>and?{end}<|assistant|>so{end}"
    assert tokenizer.bos_token + whole == tokenizer.apply_chat_template(TURNS, tokenize=False)
    own = dataclasses.replace(BUILT_IN["chat"], chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert own.for_tokenizer(tokenizer).chat_template == own.chat_template


def test_a_chat_template_that_rewrites_what_came_before_teaches_the_last_answer():
    last_only = "{% for m in messages %}{% if loop.last or add_generation_prompt %}{{ m.content }}{% endif %}|{% endfor %}"
    task = dataclasses.replace(BUILT_IN["chat"], chat_template=last_only)
    with pytest.raises(DataError, match="does not keep prompt and answer apart"):
        task.pieces({"messages": TURNS})
    said = "{% if m.role == 'user' or loop.index0 == messages|length - 1 %}{{ m.content }}{% endif %}"
    strips = "{% for m in messages %}{{ m.role[0] }}" + said + "{% endfor %}"
    task = dataclasses.replace(task, chat_template=strips + "{% if add_generation_prompt %}a{% endif %}")
    assert task.pieces({"messages": TURNS}) == [("uhiauand?a", False), ("so", True)]


def test_the_tasks_generation_settings_give_way_to_the_users():
    task = task_of(DIAGNOSTICS)
    assert task.generation_arguments(GenerationArguments()).max_new_tokens == 40
    made = task.generation_arguments(GenerationArguments(max_new_tokens=9), given=["max_new_tokens"])
    assert (made.max_new_tokens, made.do_sample) == (9, False)


def test_fields_from_the_command_line():
    task = task_of(DIAGNOSTICS)
    assert parse_fields(["Machine=a=b", "error-codes=P1, P2"], task) == {"equipment": "a=b", "error_codes": ["P1", "P2"]}
    for given, told in (("equipmnt=x", "Did you mean equipment"), ("equipment", "no value"), ("wheels=4", "no such field")):
        with pytest.raises(ConfigError, match=told):
            parse_fields([given], task)
