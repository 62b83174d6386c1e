"""What a person sees, and run.log."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from llmforge.runtime.logs import add_log_file, logger, printable, remove_log_file, set_up_logging, show


@pytest.fixture(autouse=True)
def fresh_logger(monkeypatch: pytest.MonkeyPatch):
    """The library's logger without the handlers of other tests, put back afterwards."""
    state = logger.level, logger.propagate
    monkeypatch.setattr(logger, "handlers", [])
    yield
    logger.level, logger.propagate = state


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain naïve 日本 🙂\n\ttab", "plain naïve 日本 🙂\n\ttab"),
        ("\x1b[31mred\x1b[0m", "�red�"),
        ("\x1b[2J\x1b[1;1Hcleared", "��cleared"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x9b31mred", "�31mred"),
        ("over\rwritten", "over�written"),
        ("back\x08space\x7f", "back�space�"),
        ("windows\r\nline", "windows\nline"),
        ("null\x00", "null�"),
        ("\x1b[?1049h\x1bc", "��c"),
    ],
)
def test_nothing_printed_can_move_the_cursor(text: str, shown: str):
    assert printable(text) == shown
    assert not any(ord(sign) < 32 and sign not in "\n\t" for sign in printable(text))


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]):
    set_up_logging()
    logger.info("step %d", 3)
    logger.warning("careful")
    logger.debug("never seen")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "step 3\nwarning: careful\n")


def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]):
    set_up_logging()
    set_up_logging()
    logger.info("once")
    assert capsys.readouterr().err == "once\n"


def test_only_the_first_process_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RANK", "1")
    set_up_logging()
    handler = add_log_file(tmp_path / "run.log")
    logger.info("nothing")
    show("nothing")
    remove_log_file(handler)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run.log").exists()


def test_log_file_holds_what_the_terminal_showed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from rich.table import Table

    set_up_logging()
    handler = add_log_file(tmp_path / "run.log")
    logger.info("loss=1.5")
    logging.getLogger("transformers").warning("from below")
    table = Table("naïve")
    table.add_row("[bold]cell[/]")
    show(table)
    remove_log_file(handler)
    logger.info("afterwards")
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    for line in ("INFO loss=1.5", "WARNING from below", "naïve", "cell"):
        assert line in text
    assert "\x1b" not in text
    assert "afterwards" not in text
    assert "cell" in capsys.readouterr().out


def test_log_file_is_added_to(tmp_path: Path):
    logger.setLevel(logging.INFO)
    for word in ("before", "resumed"):
        handler = add_log_file(tmp_path / "run.log")
        logger.info(word)
        remove_log_file(handler)
    assert [line.split()[-1] for line in (tmp_path / "run.log").read_text().splitlines()] == ["before", "resumed"]


def test_after_a_bar_that_is_cut_short_a_new_line_begins(monkeypatch):
    from tqdm import tqdm

    from llmforge.runtime.logs import close_bars

    screen = io.StringIO()
    bar = tqdm(total=9, file=screen)
    bar.update(3)
    close_bars()
    assert screen.getvalue().endswith("\n")
    written = len(screen.getvalue())
    bar.update(3)
    bar.close()
    close_bars()
    assert len(screen.getvalue()) == written
