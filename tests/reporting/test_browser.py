"""The report in a real browser: it shows what it should, reaches for nothing, and nothing in a run is more than text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from made_runs import falling, made_run

from llmforge.reporting.page import render
from llmforge.viewing.run import view_run

MISSING = browser.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"not tried in a browser: {MISSING}")

NOW = 1_769_862_000.0
HOSTILE = '</script><script>window.pwned=1</script><img src="http://127.0.0.1:9/x" onerror="window.pwned=1">\x1b[31m\u202egnp'


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of this file."""
    with browser.chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of a run of 200 steps, of a longer one that is smoothed, of three, and of one in which every text is hostile."""
    room = tmp_path_factory.mktemp("pages")
    runs = {"short": made_run(room / "short"), "long": made_run(room / "long", steps=4000, every=2, evaluate=200)}
    others = [made_run(room / f"run-{number}", training=lambda step, n=number: falling(step) + n) for number in (1, 2)]
    sample = {"step": 40, "prompt": HOSTILE, "strategy": HOSTILE, "settings": {}, "text": HOSTILE + "x" * 1_000_000}
    record = {"config": {HOSTILE: {HOSTILE: HOSTILE}}, "defaults": {HOSTILE: {HOSTILE: 1}}, "command": HOSTILE, "host": HOSTILE}
    runs["hostile"] = made_run(room / "<img src=x onerror=window.pwned=1>", samples=[sample], record=record)
    (runs["hostile"] / "run.log").write_text(f"2026-01-31 12:00:00,000 WARNING {HOSTILE}\n")
    with (runs["hostile"] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 300, HOSTILE: 1.0}) + "\n" + json.dumps({"step": 301, HOSTILE: 2.0}) + "\n")
    groups = {name: [folder] for name, folder in runs.items()} | {"several": [runs["short"], *others]}
    written = {}
    for name, folders in groups.items():
        written[name] = room / f"{name}.html"
        written[name].write_text(render([view_run(folder) for folder in folders], NOW), encoding="utf-8")
    return written


@pytest.fixture
def opened(driver: Any, pages: dict[str, Path]):
    """Opens a page with its storage empty; what it asked for and complained of is looked at afterwards."""

    def open_(name: str, width: int = 1200, scheme: str = "light") -> Any:
        browser.resize(driver, width, 900, mobile=width < 600)
        browser.emulate(driver, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        driver.get(pages[name].as_uri())
        driver.execute_script("localStorage.clear()")
        return driver

    driver.get_log("browser"), driver.get_log("performance")
    yield open_
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = {item["params"]["request"]["url"] for item in sent if item["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "file:", "chrome:"))} == set()  # chrome: is its own windows
    assert len([url for url in urls if url.startswith("file:")]) == 1  # the page itself


def drawn(driver: Any, chart: int = 0) -> str:
    """The pixels of a chart."""
    return driver.execute_script(f"return document.querySelectorAll('.plot canvas')[{chart}].toDataURL()")


def legend(driver: Any, chart: int = 0) -> dict[str, str]:
    """What the legend of a chart says, by line."""
    code = f"const box = document.querySelectorAll('.legend')[{chart}];"
    code += (
        "return [...box.querySelectorAll('button')].map(b => [b.querySelector('.label').textContent, b.lastChild.textContent])"
    )
    return dict(driver.execute_script(code))


def at(driver: Any, chart: int = 0) -> str:
    return driver.execute_script(f"return document.querySelectorAll('.legend .at')[{chart}].textContent")


def over(driver: Any, share: float, chart: int = 0) -> None:
    """Move the mouse to this share of a chart's width."""
    from selenium.webdriver import ActionChains

    element = driver.find_elements("css selector", ".plot .u-over")[chart]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(driver, duration=0).move_to_element_with_offset(
        element, round((share - 0.5) * element.size["width"]), 0
    ).perform()


def test_it_opens_without_a_complaint(opened):
    driver = opened("short")
    assert driver.title == "short – llmforge report"
    assert len(driver.find_elements("css selector", ".plot canvas")) == 7
    assert driver.find_element("id", "tools").is_displayed()


def test_the_mouse_reads_the_values_of_the_metrics_file(opened):
    driver = opened("short")
    assert legend(driver) == {"training": "2.909", "validation": "3.009"}
    over(driver, 0.43)
    step = int(at(driver).removeprefix("step "))
    assert step in (85, 90)  # where nothing was evaluated: of the validation the nearest is read
    assert legend(driver) == {"training": f"{falling(step):.3f}", "validation": f"{falling(80) + 0.1:.3f}"}
    assert at(driver, 1) == at(driver)  # the other charts read the same step
    assert float(legend(driver, 5)["gradient norm"]) == pytest.approx(1 + 0.1 * math.sin(step), rel=1e-3)


def test_a_logarithmic_scale_and_smoothing_change_the_curve(opened):
    driver = opened("long")
    before = drawn(driver)
    button = driver.find_element("css selector", "button.log")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert drawn(driver) != before
    button.click()
    assert drawn(driver) == before
    slider = driver.find_element("id", "smoothing")
    assert slider.get_attribute("value") == "80"  # a long run is smoothed at first
    slider.send_keys("\ue012" * 20)  # arrow left
    assert driver.find_element("id", "smoothing-value").text == "60 %"
    driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
    assert drawn(driver) != before


def test_dragging_zooms_all_charts_and_a_double_click_shows_all_again(opened):
    from selenium.webdriver import ActionChains

    driver = opened("short")
    before = [drawn(driver, chart) for chart in (0, 3)]
    element = driver.find_elements("css selector", ".plot .u-over")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    width = element.size["width"]
    mouse = ActionChains(driver, duration=0)
    mouse.move_to_element_with_offset(element, round(-0.25 * width), 0).click_and_hold().move_by_offset(round(width / 4), 20)
    mouse.release().perform()
    assert driver.find_element("id", "reset").is_enabled()
    assert all(drawn(driver, chart) != picture for chart, picture in zip((0, 3), before, strict=True))
    over(driver, 0.02)
    assert 48 <= int(at(driver).removeprefix("step ")) <= 55
    over(driver, 0.98)
    assert 95 <= int(at(driver).removeprefix("step ")) <= 102
    mouse.double_click(element).perform()
    assert not driver.find_element("id", "reset").is_enabled()
    assert [drawn(driver, chart) for chart in (0, 3)] == before


def test_the_axis_may_be_tokens_or_time(opened):
    driver = opened("short")
    steps = drawn(driver)
    for key, unit in (("t", "tokens"), ("h", "s")):
        driver.find_element("css selector", f"#axis option[value={key}]").click()
        assert drawn(driver) != steps
        over(driver, 0.5)
        assert at(driver).endswith(unit)


def test_the_theme_follows_the_reader_and_the_button(opened):
    driver = opened("short", scheme="dark")
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert driver.execute_script(ground) == "rgb(20, 23, 27)"
    dark = drawn(driver)
    button = driver.find_element("id", "theme")
    assert button.get_attribute("aria-label") == "Switch to the light theme"
    button.click()
    assert driver.execute_script(ground) == "rgb(255, 255, 255)"
    assert drawn(driver) != dark


def test_all_of_it_is_reached_by_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    driver = opened("short")
    found = []
    for _ in range(25):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = driver.switch_to.active_element
        found.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.get_attribute("href"))
        if found[-1] == "plot":
            break
    assert found[0] == "skip"
    assert [name for name in ("theme", "axis", "smoothing", "log", "plot") if name in found] == [
        "theme",
        "axis",
        "smoothing",
        "log",
        "plot",
    ]
    focused.send_keys(Keys.HOME)
    assert at(driver) == "step 0"
    focused.send_keys(Keys.ARROW_RIGHT)
    assert at(driver) == "step 5"
    spoken = driver.execute_script("return document.getElementById('spoken').textContent")
    assert f"training {falling(5):.3f}" in spoken
    focused.send_keys("+")
    assert driver.find_element("id", "reset").is_enabled()
    focused.send_keys("0")
    assert not driver.find_element("id", "reset").is_enabled()


def test_samples_are_looked_at_step_by_step(opened):
    driver = opened("short")
    text = "return document.querySelector('.samples').innerText"
    assert "sampled at 200" in driver.execute_script(text)
    driver.find_element("id", "sample-step").send_keys("\ue011")  # Home
    assert "greedy at 40" in driver.execute_script(text)
    assert "at 200" not in driver.execute_script(text)
    driver.find_element("css selector", "#sample-strategy option[value=sampled]").click()
    assert "greedy" not in driver.execute_script(text)


def test_runs_are_told_apart_and_shown_alone(opened):
    driver = opened("several")
    assert list(legend(driver)) == ["short", "run-1", "run-2"]
    lines = "return [...document.querySelectorAll('.legend')[0].querySelectorAll('line')]"
    dashes = driver.execute_script(f"{lines}.map(line => line.getAttribute('stroke-dasharray'))")
    assert len(set(dashes)) == 3
    before = drawn(driver)
    key = driver.find_elements("css selector", ".legend button")[1]
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert drawn(driver) != before


@pytest.mark.parametrize("name", ["short", "several", "hostile"])
def test_a_phone_need_not_scroll_sideways(opened, name):
    driver = opened(name, width=390)
    wide = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide == [390, 390]


def test_on_paper_it_is_light_and_without_controls(opened):
    driver = opened("short", scheme="dark")
    before = drawn(driver)
    browser.emulate(driver, "print", prefers_color_scheme="dark")
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert driver.execute_script(ground) == "rgb(255, 255, 255)"
    shown = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent !== null).length"
    assert driver.execute_script(shown, "nav, .tools, #theme, .copy, button.log") == 0
    assert driver.execute_script(shown, ".plot canvas") == 7
    assert drawn(driver) != before  # drawn again in the colours of paper
    assert len(driver.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 30_000


def test_hostile_names_and_texts_are_inert(opened):
    driver = opened("hostile")
    assert driver.execute_script("return window.pwned") is None
    assert driver.execute_script("return [document.scripts.length, document.images.length]") == [2, 0]
    shown = driver.execute_script("return document.body.textContent")
    assert shown.count("window.pwned=1") > 8
    assert not {"\x1b", "\u202e"} & set(shown)


def test_what_is_put_into_the_page_later_does_not_run_either(driver, pages):
    """The policy, if all else failed: neither a script nor an address of the page's own making."""
    driver.get(pages["short"].as_uri())
    code = """const [done, script] = [arguments[0], document.createElement("script")];
    script.textContent = "window.pwned = 1";
    document.body.append(script);
    fetch("http://127.0.0.1:9/").then(() => done("sent"), () => done(String(window.pwned)));"""
    assert driver.execute_async_script(code) == "undefined"
    told = " ".join(entry["message"] for entry in driver.get_log("browser"))
    assert told.count("Content Security Policy") >= 2
