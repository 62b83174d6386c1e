"""Questions and chats as texts: what comes out, that transformers renders the same, and templates that go wrong."""

from __future__ import annotations

import json

import pytest

from llmforge.configs.source import Source
from llmforge.data.formats import jsonl, templates
from llmforge.data.formats.templates import template_of
from llmforge.errors import ConfigError, DataError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
CHATML = (
    "{% for message in messages %}\n<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n"
)


@pytest.fixture
def render(gather):
    def run(record, **settings):
        documents, account = gather(jsonl, json.dumps(record).encode(), format="jsonl", **settings)
        return (documents[0].text if documents else None), account

    return run


# Chat


@pytest.mark.parametrize(
    "template",
    [
        None,
        CHATML,
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.content }}{% if m.tools %}T{% endif %}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{{ messages | tojson(indent=1) }}\n",
        "{% set n = namespace(n=0) %}{% for m in messages %}{% set n.n = n.n + m.content|length %}{% endfor %}{{ n.n }}",
        "{% if messages[0].thinking %}T{{ messages[0].reasoning_content }}{% endif %}{{ messages[-1].get('name', 'nobody') }}",
    ],
    ids=["default", "chatml", "filtered", "generation", "json", "namespace", "reasoning"],
)
def test_transformers_renders_the_same(render, tokenizer, template):
    """The training text is what `apply_chat_template` gives at generation, or the model sees something else there."""
    conversations = [
        CHAT,
        [
            {"role": "system", "content": " be <b>brief</b> & 'kind' \n"},
            *CHAT,
            {"role": "user", "content": "é😀\n\n```py\n  x\n```"},
        ],
        [{"role": "user", "content": "hi", "reasoning": "because", "extra": [1, None]}],
    ]
    for messages in conversations:
        text, _ = render({"messages": messages}, content="chat", template=template)
        source = Source(path="x", format="jsonl", content="chat", template=template)
        expected = tokenizer.apply_chat_template(messages, chat_template=template_of(source), tokenize=False)
        assert text == expected


def test_the_default_prompt_begins_the_default_text(tokenizer):
    template = template_of(Source(path="x", content="chat", format="jsonl"))
    prompt = tokenizer.apply_chat_template(CHAT[:1], chat_template=template, tokenize=False, add_generation_prompt=True)
    assert prompt == "User: hi\n\nAssistant:"
    assert tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False) == prompt + " ho"


@pytest.mark.parametrize(
    "messages",
    [
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}],
        [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}, CHAT[1]],
        json.dumps(CHAT),
    ],
    ids=["sharegpt", "parts", "json text"],
)
def test_other_ways_to_write_messages(render, messages):
    assert render({"conversations": messages}, content="chat", messages_field="conversations")[0] == "User: hi\n\nAssistant: ho"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("text", "record whose field 'messages' is no list of messages"),
        ([["user", "hi"]], "record whose field 'messages' is no list of messages"),
        ([{"content": "hi"}], "record with a message without a role"),
        ([{"role": "user"}], "record with a message that is no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "record with a message that is no text"),
        ([], "empty"),
        (None, "empty"),
        ([{"role": "user", "content": " "}], "empty"),
    ],
)
def test_messages_that_are_none(render, messages, reason):
    text, account = render({"messages": messages}, content="chat")
    assert text is None
    assert account.skipped == {reason: 1}


# Questions


def test_questions(render):
    record = {"question": "Why?", "answer": "So.", "context": "Once."}
    assert render(record, content="qa")[0] == "Once.\n\nQuestion: Why?\nAnswer: So."
    assert render({**record, "context": None}, content="qa")[0] == "Question: Why?\nAnswer: So."
    nested = {"q": {"text": "Why?"}, "answers": {"text": ["So."]}}
    assert (
        render(nested, content="qa", question_field="q.text", answer_field="answers.text.0")[0] == "Question: Why?\nAnswer: So."
    )


def test_a_template_may_use_any_field_of_a_question(render):
    record = {"question": "Why?", "answer": "So.", "title": "T"}
    assert (
        render(record, content="qa", template="{{ record.title }}: {{ question }} {{ answer }}{{ context }}")[0] == "T: Why? So."
    )


@pytest.mark.parametrize("record", [{"question": "Why?"}, {"question": "Why?", "answer": 3}])
def test_half_a_question_is_left_out(render, record):
    text, account = render(record, content="qa")
    assert text is None
    assert sum(account.skipped.values()) == 1
    with pytest.raises(DataError, match="'answer'"):
        render(record, content="qa", strict=True)


@pytest.mark.parametrize("record", [{"question": "Why?", "answer": " "}, {"question": None, "answer": "So."}])
def test_a_question_without_an_answer_is_empty(render, record):
    """Whatever the template prints around them."""
    text, account = render(record, content="qa", strict=True)
    assert text is None
    assert account.skipped == {"empty": 1}


# The template's text


def test_a_template_from_a_file(render, tmp_path):
    (tmp_path / "mine.jinja").write_text("\ufeffQ {{ question }} A {{ answer }}\n", encoding="utf-8")
    settings = {"content": "qa", "template": str(tmp_path / "mine.jinja")}
    assert render({"question": "q", "answer": "a"}, **settings)[0] == "Q q A a"
    assert template_of(Source(path="x", format="jsonl", **settings)) == "Q {{ question }} A {{ answer }}\n"


def test_a_source_of_texts_has_no_template():
    assert template_of(Source(path="x", template="{{ nonsense }}")) is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n\n{{ messages", "line 3: unexpected end of template"),
        ("{% for m in messages %}\n{{ m.content }}\n{% endfor", "line 3: "),
        ("a\n{{ bos_token }}{{ messages }}", "line 2: 'bos_token' is undefined. A chat template has add_generation_prompt"),
        ("{{ strftime_now('%d') }}", "'strftime_now' is undefined"),
        ("\n{{ messages[0].contnet }}", "line 2: 'dict object' has no attribute 'contnet' (in f.x:1)"),
        ("{{ messages[0].content + 1 }}", "line 1: can only concatenate str"),
        ("{{ messages | random }}", "No filter named 'random'"),
        ("{{ messages.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
        ("{% include 'other' %}", "line 1: no loader"),
        ("\n{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 2: recurses without end"),
        ("\n{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "line 2: goes too far"),
        ("{% for i in range(9999) %}\n{{ 'x' * 999 }}{% endfor %}", "line 2: renders more than"),
        ("{{ 'x' * 10**9 }}", "a product of more than"),
        ("{{ 2 ** 99999999 }}", "a power of"),
        ("{{ '%9999999999d' % 1 }}", "a width of more than"),
        ("{{ '%9999999999d' | format(1) }}", "a width of more than"),
        ("{{ '{:9999999999}'.format(1) }}", "a width of more than"),
        ("{{ 'x' | center(9999999999) }}", "a width of more than"),
        ("{{ 'x'.zfill(9999999999) }}", "a width of more than"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "cannot be compiled"),
        ("no/such/file.jinja", "neither a template nor a file that can be read: No such file"),
    ],
)
def test_a_template_that_cannot_be_used(render, template, message):
    with pytest.raises(ConfigError) as caught:
        render({"messages": CHAT}, content="chat", template=template)
    assert str(caught.value).startswith("--template")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_the_template_refuses_is_counted(render):
    template = "{% if messages[0].role != 'user' %}\n{{ raise_exception('starts with ' ~ messages[0].role) }}{% endif %}ok"
    assert render({"messages": CHAT}, content="chat", template=template)[0] == "ok"
    text, account = render({"messages": CHAT[1:]}, content="chat", template=template)
    assert text is None
    assert account.examples == {"record that the template refuses at line 2": ["f.x:1: starts with assistant"]}
    with pytest.raises(DataError, match=r"f\.x:1: .*line 2 \(starts with assistant\)"):
        render({"messages": CHAT[1:]}, content="chat", template=template, strict=True)


def test_one_record_that_lacks_what_others_have_is_not_the_templates_fault(render):
    template = "{{ messages[1].content }}"
    assert render({"messages": CHAT}, content="chat", template=template)[0] == "ho"
    text, account = render({"messages": CHAT[:1]}, content="chat", template=template)
    assert text is None
    assert account.examples == {"record that the template refuses at line 1": ["f.x:1: list object has no element 1"]}


def test_long_records_may_be_rendered_long(render):
    """The bound is against what a template makes up, not against what it is given."""
    messages = [{"role": "user", "content": "x" * 3_000_000}, CHAT[1]]
    text, _ = render(
        {"messages": messages}, content="chat", template="{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    )
    assert len(text) == 6_000_004


def test_a_template_is_compiled_once(gather):
    templates._compile.cache_clear()
    data = json.dumps({"messages": CHAT}).encode()
    for _ in range(3):
        gather(jsonl, data, content="chat", format="jsonl")
    assert templates._compile.cache_info().misses == 1
