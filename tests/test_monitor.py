"""`llmforge monitor` as its user meets it: in a pipe, in a terminal, and while all sorts of things happen to the run."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from monitoring.watched_runs import checkpoint, end, events, lines, sample, write_run

from llmforge.monitor import main
from llmforge.monitoring.log import Log
from llmforge.runtime.commands import run_command
from llmforge.runtime.run_lock import RunLock

HEAVY = ("torch", "transformers", "datasets", "accelerate", "pandas", "matplotlib", "numpy")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that was killed at step 250 of 500."""
    folder = write_run(tmp_path / "runs" / "go", events(250, total=500), [sample(250)], total=500)
    checkpoint(folder, 200)
    return folder


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


class Terminal:
    """`llmforge monitor` in a terminal of its own, forked, as a shell would start it."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24, **environment: str):
        self.pid, self.master = pty.fork()
        if not self.pid:
            code = 1
            try:
                os.environ.update({"TERM": "xterm-256color", **environment})
                for name in ("COLUMNS", "LINES", "NO_COLOR"):
                    if name not in environment:
                        os.environ.pop(name, None)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if (
                    "BACKGROUND" in environment
                ):  # as under `timeout`: a process group of its own, that the terminal does not serve
                    child = os.fork()
                    if child:
                        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, os.WUNTRACED)[1]) & 0xFF)
                    os.setpgid(0, 0)
                # pytest's own captures are the parent's.
                sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), ("r", "w", "w"))
                while os.get_terminal_size(1).columns != width:
                    time.sleep(0.005)
                code = run_command(main, arguments)
                sys.stdout.flush()
            finally:
                os._exit(code)
        self.text = ""
        self.resize(width, height)
        self.modes = termios.tcgetattr(self.master)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds: float = 0.05) -> bool:
        """Whether there was something to be read."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def until(self, text: str, seconds: float = 20.0) -> str:
        """What was shown from here to `text`, which is forgotten."""
        limit = time.monotonic() + seconds
        while text not in self.text:
            self.read()
            assert time.monotonic() < limit, f"no {text!r} in\n{self.text[-3000:]}"
        found, _, self.text = self.text.partition(text)
        return found + text

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def leaves(self, seconds: float = 60.0) -> int:
        """Its exit code, and all that it still showed in `text`."""
        limit = time.monotonic() + seconds
        while True:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0):
                    pass
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < limit, f"it goes on\n{self.text[-3000:]}"

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def terminal():
    """Opens terminals, and closes them."""
    opened: list[Terminal] = []

    def make(*arguments: str, **more) -> Terminal:
        opened.append(Terminal(*arguments, **more))
        return opened[-1]

    yield make
    for item in opened:
        item.close()


def test_in_a_pipe_it_is_plain_text_said_once(run):
    """The command itself: without torch, which is what takes seconds, and writing nothing."""
    before = contents(run)
    script = (
        "import sys; from llmforge.cli import main; code = main(sys.argv[1:]);"
        f" print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command, environment = [sys.executable, "-c", script, "monitor", str(run)], os.environ | {"TERM": "xterm"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "\x1b" not in done.stdout
    assert "● killed" in done.stdout
    assert all(row == row.rstrip() for row in done.stdout.splitlines())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert contents(run) == before


def test_json_is_one_object_with_what_the_view_shows(run, capsys):
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 260, "loss": float("nan"), "time": 1.0}) + "\n")
    main([str(run), "--json"])
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (told["state"], told["step"], told["max_steps"]) == ("killed", 260, 500)
    assert told["latest"]["eval_loss"] == last["eval_loss"]
    assert told["latest"]["loss"] is None
    assert told["checkpoints"][0]["name"] == "checkpoint-200"
    assert set(told["answers"]) == {"Is it learning?", "Is it healthy?", "When is it done?", "Is the work safe?"}
    assert told["answers"]["Is it healthy?"]["level"] == "bad"
    assert told["samples"][0]["prompt"] == "func"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "There is no run folder nowhere."),
        (["."], " is no run: it has neither run.json nor metrics.jsonl."),
        (["gs://bucket/runs/go"], "gs://bucket/runs/go is in a store."),
        (["run", "--refresh", "0"], "--refresh 0 is no time to wait."),
        (["run", "--refresh", "nan"], "--refresh nan is no time to wait."),
        (["run", "--refresh", "soon"], "Argument --refresh: invalid float value: 'soon'."),
        (["run", "--json", "--logs_only"], "--json and --logs_only exclude each other."),
        ([], "The following arguments are required: RUN_DIR."),
    ],
)
def test_what_cannot_be_is_told_in_one_line(arguments, told, capsys):
    assert run_command(main, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_q_leaves_and_the_terminal_is_as_it_was(run, terminal):
    shown = terminal(str(run), "--refresh", "0.2")
    first = shown.until("q leaves")
    assert "\x1b[?1049h" in first  # a screen of its own
    assert "\x1b[?25l" in first
    assert "step 250 of 500" in first
    assert not termios.tcgetattr(shown.master)[3] & termios.ICANON  # keys without Return
    shown.press("q")
    assert shown.leaves() == 0
    assert shown.text.rindex("\x1b[?1049l") > shown.text.rfind("\x1b[?1049h")
    assert "\x1b[?25h" in shown.text
    assert termios.tcgetattr(shown.master) == shown.modes
    assert shown.text.rstrip().endswith("go: killed, step 250 of 500")


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_ctrl_c_leaves_and_the_terminal_is_as_it_was(how, run, terminal):
    shown = terminal(str(run))
    shown.until("q leaves")
    if how == "Ctrl-C":
        shown.press("\x03")
    else:
        os.kill(shown.pid, signal.SIGTERM)
    assert shown.leaves() == (0 if how == "Ctrl-C" else 75)
    assert "\x1b[?1049l" in shown.text
    assert "\x1b[?25h" in shown.text
    assert "Traceback" not in shown.text
    assert termios.tcgetattr(shown.master) == shown.modes


def test_ctrl_z_gives_the_terminal_back_and_takes_it_again(run, terminal):
    shown = terminal(str(run), "--refresh", "0.2")
    shown.until("q leaves")
    os.kill(shown.pid, signal.SIGTSTP)  # what the terminal sends to a shell's job
    shown.until("\x1b[?1049l")
    limit = time.monotonic() + 10
    while os.waitpid(shown.pid, os.WUNTRACED | os.WNOHANG)[0] == 0:
        assert time.monotonic() < limit, "it was not stopped"
        time.sleep(0.01)
    assert termios.tcgetattr(shown.master) == shown.modes
    os.kill(shown.pid, signal.SIGCONT)
    shown.until("\x1b[?1049h")
    shown.until("q leaves")
    shown.press("q")
    assert shown.leaves() == 0


def test_in_the_background_it_leaves_the_keys_alone(run, terminal):
    end(run, 0, "finished", 500)
    shown = terminal(str(run), "--exit_at_end", BACKGROUND="1")
    assert shown.leaves() == 0
    assert termios.tcgetattr(shown.master) == shown.modes


def test_another_size_is_drawn_at_once(run, terminal):
    shown = terminal(str(run), "--refresh", "60")
    assert "learning rate" not in shown.until("q leaves")
    shown.resize(160, 45)
    assert "learning rate" in shown.until("q leaves", seconds=30)
    shown.resize(30, 5)
    shown.until("healthy?", seconds=30)
    shown.press("q")
    assert shown.leaves() == 0


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colour(environment, run, terminal):
    shown = terminal(str(run), **environment)
    if "TERM" in environment:  # which cannot be redrawn: said once
        assert shown.leaves() == 0
        assert "\x1b" not in shown.text
        assert "samples at step 250" in shown.text
    else:
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown.until("q leaves"))


def test_what_is_logged_meanwhile_is_seen_and_only_that_is_read(tmp_path, terminal):
    """A run that has only just begun, whose files come one after the other, torn, cut and at last gone."""
    folder = tmp_path / "new"
    folder.mkdir()
    lock = RunLock(folder)
    shown = terminal(str(folder), "--refresh", "0.1")
    shown.until("no loss logged yet")
    first = events(100, total=200)
    write_run(folder, [], total=200)
    whole = lines(first[:-2]), lines(first[-2:-1])
    with open(folder / "metrics.jsonl", "a", buffering=1) as file:
        file.write(whole[0] + whole[1][:30])
        shown.until("step 90 of 200")
        shown.until("q leaves")
        assert "step 100" not in shown.until("q leaves")
        file.write(whole[1][30:])
    shown.until("step 100 of 200")
    (folder / "samples.jsonl").write_text(lines([sample(100, " {\n\x1b[31mred")]))
    assert "\x1b[31mred" not in shown.until("red")
    # Taken up again from step 50: what came after that is dropped.
    temporary = folder / ".metrics"
    temporary.write_text(lines(line for line in first if line["step"] <= 50))
    temporary.rename(folder / "metrics.jsonl")
    shown.until("step 50 of 200")
    end(folder, 75, "Stopped by SIGTERM after step 50.", 50)
    os.utime(folder / "run.lock")
    lock.release()
    shown.until("preempted")
    shutil.rmtree(folder)
    shown.until("the folder is gone")
    shown.until("● preempted")  # what was seen stays
    shown.press("q")
    assert shown.leaves() == 0


def test_it_can_leave_with_the_run(run, terminal):
    lock = RunLock(run)
    shown = terminal(str(run), "--exit_at_end", "--refresh", "0.1")
    shown.until("running")
    shown.until("q leaves")
    end(run, 0, "finished", 500)
    lock.release()
    assert shown.leaves() == 0
    assert shown.text.rstrip().endswith("go: finished, step 250 of 500")


def test_the_log_alone_is_followed_and_its_end_told(run, terminal):
    lock = RunLock(run)
    with open(run / "run.log", "w") as file:
        file.writelines(f"2020-01-01 01:00:00,000 INFO line {number}\n" for number in range(100))
    shown = terminal(str(run), "--logs_only", "--refresh", "0.1")
    begin = shown.until("line 99\r\n")
    assert "line 60\r\n" in begin
    assert "line 59\r\n" not in begin
    with open(run / "run.log", "a", buffering=1) as file:
        file.write("INFO half \x1b[2J")
        time.sleep(0.3)
        file.write("a line\nthe last wo")
    assert "\x1b" not in shown.until("a line")
    end(run, 0, "finished", 500)
    lock.release()
    assert "the last wo" in shown.until("-- the run has ended: finished")
    shown.press("\x03")
    assert shown.leaves() == 0
    assert "Traceback" not in shown.text


def test_the_log_of_a_run_that_is_over_is_told_once_where_asked(run, capsys):
    main([str(run), "--logs_only", "--once"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("step 0/500 eval_loss=8.5")
    assert told[-1] == "-- the run has ended: killed (No process holds the run, and none wrote how it ended.)"


def test_a_log_that_is_written_anew_or_grows_fast(tmp_path):
    path = tmp_path / "run.log"
    log = Log(path, 5)
    assert log.read() == []  # not there yet
    path.write_text("one\ntwo\n")
    assert log.read() == ["one", "two"]
    path.write_text("three\n")
    assert log.read() == ["three"]
    with open(path, "a") as file:
        file.write("x" * 300_000 + "\nlast\n")
    assert log.read()[-1] == "last"
    path.unlink()
    assert log.read() == []


def test_a_live_run_is_watched_and_none_the_worse_for_it(corpus, terminal, tmp_path):
    """The same training with and without somebody who looks all the time."""
    from reliability.child_runs import Child, pretrain

    def train(name: str) -> Child:
        steps = ["--max_steps", "4", "--save_steps", "2", "--eval_strategy", "no"]
        return Child(lambda: pretrain("--corpus", str(corpus), "--output_dir", name, *steps), name)

    alone = train("alone")
    assert alone.wait() == 0, alone.text()
    watched = train("watched")
    try:
        watched.until("watched/run.lock")
        shown = terminal("watched", "--refresh", "0.1", "--exit_at_end")
        assert shown.leaves(60) == 0
        assert "● running" in shown.text
        assert shown.text.rstrip().endswith("watched: finished, step 4 of 4")
        assert watched.wait() == 0, watched.text()
    finally:
        watched.kill()
    weights = [Path(name, "final", "model.safetensors").read_bytes() for name in ("alone", "watched")]
    assert weights[0] == weights[1]
    losses = [re.findall(r'"loss": [\d.]+', Path(name, "metrics.jsonl").read_text()) for name in ("alone", "watched")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_many_looks_read_little(tmp_path):
    """A hundred thousand log events: the first look reads them, the next ones only what is new."""
    from llmforge.viewing.run import RunReader

    folder = write_run(tmp_path / "long", [], total=10**6)
    with open(folder / "metrics.jsonl", "w") as file:
        file.writelines(f'{{"step": {step}, "loss": {5 - step / 2e6}, "time": {step}.0}}\n' for step in range(10, 300_000, 10))
    reader = RunReader(folder)
    begun = time.thread_time()
    reader.view()
    whole = time.thread_time() - begun
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 300000, "loss": 1.0}\n')
    begun = time.thread_time()
    assert reader.view().step == 300_000
    assert time.thread_time() - begun < whole / 4
