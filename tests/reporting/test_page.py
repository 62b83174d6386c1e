"""The page as text: complete, small, inert whatever it holds."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import RECORD, made_run

from llmforge.reporting.page import render
from llmforge.viewing.run import view_run

NOW = 1_769_862_000.0
HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & \x1b[31mred\x1b[0m \u202egnp \u2028'


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.text += " "
        self.elements.append((tag, dict(attributes)))
        if tag in self.raw:
            self._inside = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag):
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside:
            self.raw[self._inside][-1] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict:
        return json.loads(self.raw["script"][0])

    def has(self, *texts: str) -> bool:
        plain = " ".join(self.text.split())
        missing = [text for text in texts if text not in plain]
        return not missing or print(missing)


def page(*folders: Path) -> Page:
    return Page(render([view_run(folder) for folder in folders], NOW))


def test_it_says_what_is_to_be_seen_at_a_glance(tmp_path):
    found = page(made_run(tmp_path / "made"))
    assert found.has("made", "finished", "gpt2-10m", "1,234,567 parameters", "RTX 3090")
    assert found.has("Is it learning?", "Is it healthy?", "When is it done?", "Is the work safe?", "Finished at step 200 of 200")
    assert found.has("Training loss 2.909", "Validation loss 3.009", "Tokens 200 k", "Best loss 3.009 at step 200")
    assert found.has(
        "train 7 9,000 3,000", "llmforge pretrain --corpus notes --learning_rate 0.001", "torch", "2.13.0", "0123abcd"
    )
    assert found.has("model.n_layer 4 none", "training.learning_rate 0.001 none", "Settings: training 4")
    assert "n_layer: 4" in found.text  # the YAML to do it again with


def test_the_curves_are_those_of_the_metrics_file(tmp_path):
    data = page(made_run(tmp_path / "made")).data
    charts = {chart["title"]: chart for chart in data["charts"]}
    assert set(charts) >= {"Loss", "Perplexity", "Bits per byte", "Accuracy", "Learning rate", "Gradient norm", "Speed"}
    training, validation = charts["Loss"]["lines"]
    assert training["s"] == list(range(5, 201, 5))
    assert training["v"][-1] == pytest.approx(2.5 + 4.5 / 11, rel=1e-5)
    assert (validation["s"], validation["measured"]) == ([0, 40, 80, 120, 160, 200], True)
    assert data["runs"][0]["axis"]["t"][-1] == 200_000
    assert data["runs"][0]["axis"]["h"][-1] == pytest.approx(195 / 3600, abs=1e-3)


def test_what_a_callback_of_the_users_own_logs_is_a_curve_too(tmp_path):
    folder = made_run(tmp_path / "made")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "temperature_of_the_room": 21.5}\n{"step": 202, "temperature_of_the_room": 22.5}\n')
    titles = [chart["title"] for chart in page(folder).data["charts"]]
    assert titles[-1] == "temperature_of_the_room"
    assert not any("runtime" in title for title in titles)


def test_what_a_deadline_foretells_is_no_curve(tmp_path):
    folder = made_run(tmp_path / "made")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 201, "run_seconds": 900.0, "max_steps": 400}\n{"step": 202, "run_seconds": 901.0, "max_steps": 402}\n'
        )
    titles = [chart["title"] for chart in page(folder).data["charts"]]
    assert not {"run_seconds", "max_steps"} & set(titles)


@pytest.mark.parametrize(
    "end", [None, {"exit_code": 6, "reason": "Step 7: loss nan"}, {"exit_code": 1, "reason": "KeyError('x')"}]
)
def test_a_run_that_did_not_finish_is_complete_too(tmp_path, end):
    found = page(made_run(tmp_path / "made", end=end))
    assert found.has("killed" if end is None else end["reason"], "Not finished", "Settings: model")
    assert len(found.data["charts"]) > 6


def test_a_run_that_has_just_begun(tmp_path):
    folder = made_run(tmp_path / "made", steps=0, evaluate=99, samples=[], end=None)
    (folder / "metrics.jsonl").unlink()
    found = page(folder)
    assert found.has("Nothing has been logged yet", "Too early to say", "No checkpoint has been saved yet")
    assert found.data["charts"] == []


def test_losses_that_are_no_numbers(tmp_path):
    folder = made_run(tmp_path / "made", training=lambda step: float("nan") if step > 100 else 3.0)
    line = page(folder).data["charts"][0]["lines"][0]
    assert line["v"][-1] is None
    assert page(folder).has("Training loss NaN")


def test_several_runs_beside_one_another(tmp_path):
    other = RECORD["config"] | {"training": RECORD["config"]["training"] | {"learning_rate": 0.01, "output_dir": "runs/b"}}
    found = page(
        made_run(tmp_path / "a"),
        made_run(tmp_path / "b", training=lambda step: 3.0, record={"config": other}, end=None),
    )
    assert found.has("2 runs compared", "State finished killed", "training.learning_rate 0.001 0.01")
    assert not found.has("training.output_dir")
    charts = {chart["title"]: chart for chart in found.data["charts"]}
    assert [line["label"] for line in charts["Loss, training"]["lines"]] == ["a", "b"]
    assert [line["run"] for line in charts["Loss, validation"]["lines"]] == [0, 1]


def test_twelve_long_runs_are_a_page_of_less_than_two_megabytes(tmp_path):
    folders = [made_run(tmp_path / f"run-{number}", steps=6000, every=1, evaluate=50) for number in range(3)]
    views = [view_run(folder) for folder in folders] * 4
    assert len(render(views, NOW).encode()) < 2_000_000
    assert len(render(views[:1], NOW).encode()) < 1_000_000


def test_it_reaches_for_nothing(tmp_path):
    """No address in any attribute, and a policy that would not let it."""
    found = page(made_run(tmp_path / "made"))
    for tag, attributes in found.elements:
        for name in ("src", "srcset", "action", "data", "background", "poster", "style"):
            assert name not in attributes, (tag, name)
        assert not any(name.startswith("on") for name in attributes)
        target = attributes.get("href")
        assert target is None or target.startswith("#") or target == "data:,"
    assert "@import" not in found.raw["style"][0]
    assert "url(" not in found.raw["style"][0]
    [policy] = [item["content"] for item in found.all("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules["script-src"] == digest(found.raw["script"][1])
    assert rules["style-src"] == digest(found.raw["style"][0])
    assert "unsafe" not in policy


def hostile(folder: Path) -> Path:
    """A run in which everything that can be named is named so."""
    config = {HOSTILE: {HOSTILE: HOSTILE}, "training": {"seed": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}}
    data = {"path": HOSTILE, "fingerprint": HOSTILE, "splits": {HOSTILE: {"documents": HOSTILE, "tokens": 7}}}
    record = {"config": config, "defaults": {HOSTILE: {HOSTILE: None}, "training": {"seed": 1}}, "data": data, "command": HOSTILE}
    record |= {"host": HOSTILE, "folder": HOSTILE, "run_id": HOSTILE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    samples = [{"step": 40, "prompt": HOSTILE, "strategy": HOSTILE, "text": HOSTILE + "x" * 1_000_000, "settings": {}}]
    made_run(folder, samples=samples, record=record, end={"exit_code": 1, "reason": HOSTILE})
    (folder / "run.log").write_text(f"2026-01-31 12:00:00,000 WARNING {HOSTILE}\n")
    uploads = {"checkpoint-40": {"state": "failed", "error": HOSTILE, "time": HOSTILE}}
    (folder / "uploads.json").write_text(json.dumps({"remote": HOSTILE, "superseded": 0, "checkpoints": uploads, "files": {}}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 300, HOSTILE: 1.0}) + "\n" + json.dumps({"step": 301, HOSTILE: 2.0}) + "\n")
    return folder


def test_whatever_a_run_holds_is_text(tmp_path):
    folder = hostile(tmp_path / '<img src=x onerror=alert(1)>"')
    text = render([view_run(folder)], NOW)
    found = Page(text)
    assert len(found.raw["script"]) == 2
    assert "img" not in [tag for tag, _ in found.elements]
    assert found.text.count("onerror=alert(1)") > 10  # it is there, as text
    assert not set(text) & {"\x1b", "\u202e", "\x07"}
    assert found.data["samples"][0][0]["items"][0]["prompt"].startswith("</script>")
    assert "<" not in found.raw["script"][0]
    assert len(text) < 400_000
    both = Page(render([view_run(folder), view_run(made_run(tmp_path / "b"))], NOW))
    assert len(both.raw["script"]) == 2
    assert "img" not in [tag for tag, _ in both.elements]


def test_secrets_stay_out(tmp_path):
    """What the records have taken out is not in the page: it is made of them alone."""
    config = {"training": {"hub_token": "<HUB_TOKEN>", "push_to_hub_token": "<redacted>"}}
    found = page(made_run(tmp_path / "made", record={"config": config, "command": "llmforge pretrain --hub_token <redacted>"}))
    assert found.has("<redacted>", "<HUB_TOKEN>", "--hub_token <redacted>")


def test_readers_who_do_not_see_it_find_their_way(tmp_path):
    found = page(made_run(tmp_path / "made"))
    assert [tag for tag, _ in found.elements if tag in ("header", "main", "footer", "nav", "h1")] == [
        "header",
        "h1",
        "nav",
        "main",
        "footer",
    ]
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("caption")) == len(found.all("table")) > 8
    assert all("scope" in item for item in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [item["href"][1:] for item in found.all("a")]
    assert set(links) <= set(ids)
    assert all(item["aria-labelledby"] in ids for item in found.all("section") if "aria-labelledby" in item)
    headings = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_a_page_of_a_long_run_is_quick(tmp_path):
    """Twenty thousand log events, the second time as a callback does it: a twentieth of a second, and a generous bound."""
    view = view_run(made_run(tmp_path / "made", steps=20_000, every=1, evaluate=1000))
    render([view], NOW)
    start = time.process_time()
    render([view], NOW)
    assert time.process_time() - start < 1.0
