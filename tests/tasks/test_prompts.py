"""A question is put in the very tokens that it had in training, for every kind of row and by every way to ask."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from helpers import tiny_model
from transformers import AutoTokenizer

from llmforge import finetune, generate
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.runtime.commands import run_command
from llmforge.sampling.completions import encode_prompt
from llmforge.sampling.dialogue import converse
from llmforge.tasks.examples import Encoder
from llmforge.tasks.files import BUILT_IN, load_task
from llmforge.tasks.prompts import Prompt, cut_parts
from llmforge.tasks.rows import Row
from llmforge.tasks.task import Task, TaskField
from llmforge.tokenization import load, train_tokenizer
from llmforge.tuning.start import grow_tokenizer

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Whose tokens stand nowhere in the template: it puts them together.
BY_ROLE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OWN = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>"]
FIELDS = Task(
    name="machines",
    fields=(TaskField("machine", required=True), TaskField("codes", is_list=True), TaskField("cause", required=True)),
    prompt="Machine: {{ machine }}\nCodes: {{ codes or 'none' }}\nCause:",
    completion=" {{ cause }}",
)
#: Answers that end in white space, which would melt into what follows; a text that looks like a token.
CHAT = [
    {"role": "user", "content": "open  the file"},
    {"role": "assistant", "content": "return nil  \n"},
    {"role": "user", "content": "<|endoftext|> <|im_end|>\n"},
    {"role": "assistant", "content": "\tif err\n\n"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "write"},
]
ROWS = {
    "fields": (FIELDS, {"machine": "path <|endoftext|>", "codes": ["P1", "P2"], "cause": "int error"}),
    "completion": (BUILT_IN["completion"], {"prompt": "func open \n", "completion": "\n return<|pad|>"}),
    "qa": (BUILT_IN["qa"], {"context": "data\n", "question": "range? ", "answer": "for string"}),
    "chat": (BUILT_IN["chat"], {"messages": CHAT}),
    "chatml": (BUILT_IN["chat"], {"messages": CHAT}),
    "by role": (BUILT_IN["chat"], {"messages": CHAT}),
}
TEMPLATES = {"chatml": CHATML, "by role": BY_ROLE}


@pytest.fixture(scope="module")
def spaced(tmp_path_factory) -> Path:
    """A tokenizer that has tokens of several line ends, which answers and what follows them could share."""
    folder = tmp_path_factory.mktemp("spaced")
    text = "func open return nil err path\n\n\n\nwrite if for  \n\n\tdata User: Assistant:\n\n\n"
    train_tokenizer([text] * 9, TokenizerArguments(vocab_size=340)).save(folder)
    return folder


@pytest.fixture(params=["ours", "another start"])
def own(request, spaced):
    """A model's tokenizer with special tokens of a chat; published ones may have a start of text that is not the end."""
    made = AutoTokenizer.from_pretrained(spaced)
    made.add_special_tokens({"additional_special_tokens": [*OWN, "<|start|>"]})
    if request.param == "another start":
        made.bos_token = "<|start|>"
    grow_tokenizer(made)
    return made


def saved(tokenizer, tmp_path: Path, template: str | None = None):
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return load(tmp_path / "tokenizer"), AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("kind", list(ROWS))
def test_the_ids_asked_are_those_before_the_answer_in_training(kind, own, tmp_path):
    task, values = ROWS[kind]
    text, tokenizer = saved(own, tmp_path, TEMPLATES.get(kind))
    trained = task.for_tokenizer(tokenizer)
    [example] = Encoder(trained, text, 4096).examples([Row("rows:1", values)])
    row = [text.end_of_text, *example.ids.tolist()]
    # The task as it is found again beside the model.
    trained.save(tmp_path)
    found = load_task(tmp_path).for_tokenizer(tokenizer)
    for turn in (1, 3, 5) if "messages" in values else (0,):
        asked = found.render_prompt({"messages": CHAT[:turn]} if turn else values)
        ids = encode_prompt(asked, tokenizer)
        assert ids == row[: len(ids)]
        # Up to where something is learnt, and no further: target i is learnt, and the input before it is not.
        assert example.learnt[len(ids) - 1]
        assert not example.learnt[len(ids) - 2]
    if kind in TEMPLATES:
        for token in ("<|im_start|>", "<|im_end|>") if kind == "chatml" else ("<|user|>", "<|assistant|>"):
            assert tokenizer.convert_tokens_to_ids(token) in ids
    elif kind == "chat":
        assert ids != encode_prompt(str(asked), tokenizer), "the parts matter: white space melts together"
        assert not set(ids[1:]) & set(tokenizer.all_special_ids)


def test_a_prompt_is_a_text_that_can_be_copied():
    prompt = Prompt(["a ", "b"], "<x>")
    assert prompt == "a b"
    assert json.dumps([prompt]) == '["a b"]'
    for other in (copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert (other, other.parts, other.written) == ("a b", ("a ", "b"), "<x>")
    assert cut_parts(["a<x>b<y>", "", "<x>"], {"<x>": 7, "<y>": 8}, "{{ '<x>' }}") == [["a", 7, "b<y>"], [], [7]]


def test_a_chat_saves_its_special_tokens_and_stops_where_its_answers_end(own, tmp_path):
    _, tokenizer = saved(own, tmp_path, CHATML)
    task = BUILT_IN["chat"].for_tokenizer(tokenizer)
    assert task.stops == ("\n\nUser:", "<|im_end|>")
    assert task.generation_arguments(GenerationArguments()).stop_strings == list(task.stops)
    assert task.for_tokenizer(saved(own, tmp_path, BY_ROLE)[1]).stops == task.stops  # its own template stays
    assert BUILT_IN["chat"].for_tokenizer(saved(own, tmp_path, BY_ROLE)[1]).stops == ("\n\nUser:",)  # the end of text
    tokenizer.eos_token = "<|im_end|>"
    task = BUILT_IN["chat"].for_tokenizer(tokenizer)
    task.save(tmp_path)
    assert load_task(tmp_path) == task
    assert load_task(tmp_path).special["eos_token"] == "<|im_end|>"


# By every way to ask


@pytest.fixture
def asked(monkeypatch):
    """The ids that models are given to go on from."""
    from transformers import GenerationMixin

    given: list[list[int]] = []
    stock = GenerationMixin.generate

    def spied(self, inputs, **settings):
        given.append(inputs[0].tolist())
        return stock(self, inputs, **settings)

    monkeypatch.setattr(GenerationMixin, "generate", spied)
    return given


@pytest.fixture
def chatting(own, tmp_path) -> Path:
    """A base whose tokenizer has a chat template, and rows of a chat in a file."""
    _, tokenizer = saved(own, tmp_path, CHATML)
    tiny_model("gpt2-10m", tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [[{"role": "user", "content": f"path {n}"}, {"role": "assistant", "content": "nil"}] for n in range(8)]
    for name in ("train", "validation"):
        lines = (json.dumps({"messages": said}) + "\n" for said in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def prompt_of(folder: Path, *messages: tuple[str, str]) -> list[int]:
    """The ids that stand before an answer in training, by transformers' own template and no code of ours."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    said = [{"role": role, "content": content} for role, content in messages]
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [tokenizer.eos_token_id, *ids[1:]]


@pytest.mark.parametrize("own", ["ours"], indirect=True)
def test_samples_prompts_and_dialogues_ask_as_in_training(chatting, asked, capsys):
    words = ["--from_pretrained", str(chatting / "base"), "--train_file", str(chatting / "train.jsonl"), "--max_steps", "2"]
    words += ["--validation_file", str(chatting / "validation.jsonl"), "--output_dir", "run", "--report_to", "none"]
    assert run_command(finetune.main, [*words, "--eval_strategy", "steps", "--eval_steps", "1", "--max_new_tokens", "3"]) == 0
    expected = [prompt_of(chatting, ("user", "path 0")), prompt_of(chatting, ("user", "path 1"))]
    assert len(asked) >= 4
    assert asked[:2] == expected  # the samples at an evaluation
    assert asked[-2:] == expected  # those of the finished model
    asked.clear()

    command = ["--model", "run", "--prompt", "path 0", "--json", "--max_new_tokens", "3", "--no-do_sample"]
    assert run_command(generate.main, command) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["prompt"].endswith("<|im_start|>user\npath 0<|im_end|>\n<|im_start|>assistant\n")
    generate.ask("run/final", {"messages": [{"role": "user", "content": "path 1"}]})
    assert asked == expected
    asked.clear()
    run_command(generate.main, [*command, "--task", "completion"])  # the prompt as it stands
    tokenizer = AutoTokenizer.from_pretrained(chatting / "base")
    assert asked == [[tokenizer.eos_token_id, *tokenizer("path 0")["input_ids"]]]
    asked.clear()
    run_command(generate.main, ["--model", str(chatting / "base"), "--task", "chat", "--prompt", "path 0"])  # by its tokenizer
    assert asked == expected[:1]
    asked.clear()

    found = load_pretrained_model("run")
    task = load_task(found.path).for_tokenizer(found.tokenizer)
    settings = task.generation_arguments(GenerationArguments(max_new_tokens=3))
    lines = iter(["open", "and?", "/save chat.jsonl", "/reset", "path 0", "/quit"])
    dialogue = converse(found, settings, 0, task, lambda label: next(lines))
    [row] = map(json.loads, Path("chat.jsonl").read_text().splitlines())
    first, answer, second, _ = [(message["role"], message["content"]) for message in row["messages"]]
    assert (first, second) == (("user", "open"), ("user", "and?"))
    assert asked == [prompt_of(chatting, first), prompt_of(chatting, first, answer, second), expected[0]]
    assert len(dialogue.turns.messages) == 2
