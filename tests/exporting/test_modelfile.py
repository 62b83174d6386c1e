"""A task goes along with an export: read back by what reads it, and asked as in training."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
from helpers import tiny_model
from transformers import AutoTokenizer

from llmforge.configs.export import ExportArguments
from llmforge.errors import ConfigError
from llmforge.export import export_model
from llmforge.exporting.modelfile import go_template, modelfile
from llmforge.exporting.server import GgufServer
from llmforge.pretrained.loading import load_pretrained_model
from llmforge.sampling.completions import encode_prompt
from llmforge.tasks.files import BUILT_IN, load_task
from llmforge.tasks.task import Task, TaskField

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: A chat template that no list of messages with a text before and behind each can be.
COUNTING = (
    "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ messages|length + 1 }} assistant: {% endif %}"
)
STRICT = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}[{{ m.role }}{{ '{{' }}]"
STRICT += "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant{{ '{{' }}]{% endif %}"
MACHINES = Task(
    name="machines",
    fields=(TaskField("machine", required=True), TaskField("code", required=True), TaskField("cause", required=True)),
    prompt="Machine: {{ machine }}\nCode: {{ code }}\nCause:",
    completion=" {{ cause }}",
    stop=("\nMachine:", 'a "quoted" stop'),
    generation={"do_sample": False, "max_new_tokens": 40},
)
SAID = [
    {"role": "user", "content": "open {{ it }}"},
    {"role": "assistant", "content": "return\nnil"},
    {"role": "user", "content": "and?"},
]


def commands(text: str) -> list[tuple[str, str]]:
    """A Modelfile as Ollama's parser reads it: values in quotes or triple quotes, without escapes."""
    found = re.findall(r'^(FROM|TEMPLATE|LICENSE|PARAMETER \w+) ("""(?:.|\n)*?"""+|"[^"\n]*"|[^"\n]+)$|^#.*$', text, re.MULTILINE)
    return [
        (name, value.removeprefix('"""').removesuffix('"""') if value[:3] == '"""' else value.strip('"'))
        for name, value in found
        if name
    ]


def go(template: str, messages: list[dict]) -> str:
    """The Go template with Ollama's values: a reader of the few actions that are written, and of no others."""
    if template == "{{ .Prompt }}":
        return messages[-1]["content"]
    tokens = re.split(r"(\{\{.*?\}\})", template)

    def block(place: int, values: dict, live: bool) -> tuple[str, int, str]:
        out = ""
        while place < len(tokens):
            token = tokens[place]
            action = token[2:-2].strip() if token.startswith("{{") else None
            place += 1
            if action is None:
                out += token if live else ""
            elif action == '"{{"':
                out += "{{" if live else ""
            elif action == "$m.Content":
                out += values["m"]["content"] if live else ""
            elif action == "end" or action.startswith("else"):
                return out, place, action
            elif action == "range $i, $m := .Messages":
                start = place
                for number, message in enumerate(messages):
                    text, place, _ = block(start, {"i": number, "m": message}, live)
                    out += text
            else:
                assert action.startswith("if "), action
                done = False
                while True:
                    holds = action == "else" or condition(action.removeprefix("else ").removeprefix("if "), values)
                    text, place, action = block(place, values, live and holds and not done)
                    out, done = out + text, done or holds
                    if action == "end":
                        break
        return out, place, ""

    def condition(text: str, values: dict) -> bool:
        if text == "$i":
            return bool(values["i"])
        if text == "eq (len (slice $.Messages $i)) 1":
            return len(messages[values["i"] :]) == 1
        return re.fullmatch(r'eq \$m\.Role "(\w+)"', text)[1] == values["m"]["role"]

    return block(0, {}, True)[0]


@pytest.fixture
def own(tokenizer_folder):
    made = AutoTokenizer.from_pretrained(tokenizer_folder)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


@pytest.fixture
def model(own, tmp_path):
    """Saves a tiny model that was fine-tuned on a task."""

    def save(task: Task | None, template: str | None = None) -> Path:
        own.chat_template = template
        folder = tmp_path / "model"
        tiny_model("gpt2-10m", own).save_pretrained(folder)
        own.save_pretrained(folder)
        if task is not None:
            task.for_tokenizer(own).save(folder)
        return folder

    return save


@pytest.mark.parametrize("template", [None, CHATML, STRICT], ids=["ours", "chatml", "strict"])
def test_a_chat_is_asked_as_it_was_trained(template, own):
    own.chat_template = template
    task = BUILT_IN["chat"].for_tokenizer(own)
    system = {"role": "system", "content": "Be brief."}
    for said in (SAID[:1], SAID, *([] if template == STRICT else [[system, *SAID]])):
        assert go(go_template(task), said) == task.render_prompt({"messages": said})


def test_a_chat_template_that_does_more_is_told(own, model):
    found = load_pretrained_model(str(model(BUILT_IN["chat"], COUNTING)))
    text = modelfile(found, load_task(found.path), "m.gguf", "")
    assert "cannot be written in Ollama's language" in text
    assert "TEMPLATE" not in text


@pytest.mark.parametrize(
    ("task", "field"),
    [(BUILT_IN["qa"], "question"), (BUILT_IN["completion"], "prompt"), (MACHINES, None)],
    ids=lambda x: str(x)[:20],
)
def test_the_last_question_alone_is_asked(task, field, model):
    found = load_pretrained_model(str(model(task)))
    text = modelfile(found, task, "m.gguf", "mit")
    read = commands(text)
    template = dict(read)["TEMPLATE"]
    given = "open {{ it }}?"
    expected = task.render_prompt({field: given}) if field else given
    assert go(template, [*SAID[:2], {"role": "user", "content": given}]) == expected
    assert [value for name, value in read if name == "PARAMETER stop"] == ["<|endoftext|>", *task.stop]
    assert dict(read)["LICENSE"] == "mit"
    if task is MACHINES:
        assert "#   Code: <code>" in text
        assert (dict(read)["PARAMETER num_predict"], dict(read)["PARAMETER temperature"]) == ("40", "0")


def test_settings_that_ollama_lacks_are_left_out(model):
    task = dataclasses.replace(BUILT_IN["qa"], generation={"num_beams": 4, "max_new_tokens": 9})
    read = commands(modelfile(load_pretrained_model(str(model(task))), task, "m.gguf", ""))
    names = [name for name, _ in read if name.startswith("PARAMETER")]
    assert names == ["PARAMETER num_ctx", *["PARAMETER stop"] * (1 + len(task.stop)), "PARAMETER num_predict"]


def test_a_model_of_plain_text_goes_on_with_the_prompt(model):
    found = load_pretrained_model(str(model(None)))
    assert dict(commands(modelfile(found, None, "m.gguf", "")))["TEMPLATE"] == "{{ .Prompt }}"


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the extra gguf is not installed")
@pytest.mark.parametrize("template", [None, CHATML], ids=["ours", "chatml"])
def test_llama_cpp_gives_the_model_the_ids_of_training(template, model, tmp_path):
    """By the Modelfile's template, and by the chat template in the file, in llama.cpp's own tokens."""
    import gguf

    folder = model(BUILT_IN["chat"], template)
    export_model(ExportArguments(model=str(folder), output=str(tmp_path / "m.gguf"), verify=False))
    found = load_pretrained_model(str(folder))
    task = load_task(folder).for_tokenizer(found.tokenizer)
    ids = encode_prompt(task.render_prompt({"messages": SAID}), found.tokenizer)
    written = dict(commands((tmp_path / "m.Modelfile").read_text()))
    with GgufServer(tmp_path / "m.gguf", 256) as reader:
        texts = [go(written["TEMPLATE"], SAID), reader._ask("/apply-template", {"messages": SAID})["prompt"]]
        for text in texts:
            asked = {"content": text, "add_special": True, "parse_special": True}
            assert reader._ask("/tokenize", asked)["tokens"] == ids
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    (tmp_path / "task.yaml").write_text(fields["llmforge.task"].contents())
    assert load_task(tmp_path) == task


def test_a_folder_carries_its_task_and_asks_the_same(model, tmp_path, capsys):
    folder = model(BUILT_IN["chat"])
    (folder.parent / "run.json").write_text('{"config": {"data": {"block_size": 96}}}')
    out = tmp_path / "elsewhere" / "out"
    for _ in range(2):  # what an export leaves may be replaced by one
        export_model(ExportArguments(model=str(folder), output=str(out), format="safetensors"))
    assert "longer than the specified maximum" not in capsys.readouterr().err  # the lines of the check may well be
    found = load_pretrained_model(str(out))
    assert found.context == 96
    task = load_task(out)
    assert task == load_task(folder)
    ids = encode_prompt(task.for_tokenizer(found.tokenizer).render_prompt({"messages": SAID}), found.tokenizer)
    stock = AutoTokenizer.from_pretrained(out)
    assert stock.apply_chat_template(SAID, add_generation_prompt=True, tokenize=True, return_dict=False) == ids
    assert "fine-tuned for the task `chat`" in (out / "README.md").read_text()


def test_outputs_beside_each_other_have_cards_of_their_own(model, tmp_path):
    folder = model(None)
    for dtype in ("f16", "q8_0"):
        for end in ("", ".gguf"):
            output = str(tmp_path / f"m.{dtype}{end}")
            export_model(ExportArguments(model=str(folder), output=output, dtype=dtype, verify=False))
    assert {path.name for path in tmp_path.glob("m.*")} == {
        *(f"m.{dtype}{end}" for dtype in ("f16", "q8_0") for end in ("", ".gguf", ".md", ".Modelfile"))
    }
    assert "in q8_0" in (tmp_path / "m.q8_0.md").read_text()
    (tmp_path / "README.md").write_text("my own")
    with pytest.raises(ConfigError, match=r"README.md is there and would be replaced"):
        export_model(ExportArguments(model=str(folder), output=str(tmp_path / "README.gguf"), verify=False))
    assert (tmp_path / "README.md").read_text() == "my own"
