"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.errors import DataError, StorageError
from llmforge.storage import files as storage
from llmforge.storage.files import Placing, is_disk_full, new_file, new_folder, sweep_partial
from llmforge.storage.records import append_json_line, keep_json_lines, read_json, read_json_lines, write_json, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_text_is_written_as_given(tmp_path: Path):
    path = write_text(tmp_path / "new" / "folder" / "a.txt", "naïve\r\n…\n")
    assert path.read_bytes() == "naïve\r\n…\n".encode()
    assert names(path.parent) == {"a.txt"}


def test_written_file_has_the_usual_mode(tmp_path: Path):
    (tmp_path / "plain").touch()
    assert write_text(tmp_path / "a", "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_that_are_placed_together_are_all_there_at_the_end(tmp_path: Path):
    with Placing(waiting=2) as placing:
        for number in range(20):
            with new_file(tmp_path / f"{number}", placing) as path:
                path.write_text(str(number))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(number): str(number) for number in range(20)}


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_file_that_cannot_be_placed_later_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, step, fail)
    with (
        pytest.raises(StorageError, match=r"Cannot write .*a: No space left"),
        Placing() as placing,
        new_file(tmp_path / "a", placing) as path,
    ):
        path.write_text("new")
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "old"


def test_an_error_of_the_reader_waits_for_what_is_being_placed(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Placing() as placing:
        with new_file(tmp_path / "a", placing) as path:
            path.write_text("new")
        raise ZeroDivisionError
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    path = write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match=r"a\.txt: No space left on device\. Free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_target_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At the moment everything is on disk the old content still stands there: the rename is the switch."""
    path = write_text(tmp_path / "a.txt", "old")
    seen = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *ends: (seen.append((path.read_text(), Path(ends[0]).read_text())), real(*ends)))
    write_text(path, "new")
    assert seen == [("old", "new")]
    assert path.read_text() == "new"


def test_full_disk_is_a_storage_error(tmp_path: Path):
    """A limit on the size of a file makes the kernel refuse the write, as a full disk does."""
    code = """
import resource, sys
from llmforge.errors import StorageError
from llmforge.storage.files import new_folder
from llmforge.storage.records import write_text
path = sys.argv[1]
write_text(path + "/a.txt", "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_text(path + "/a.txt", "x" * 100_000)
except StorageError as error:
    print(error)
try:
    with new_folder(path + "/folder") as staging:
        (staging / "b").write_text("x" * 100_000)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("Free some space") == 2
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "x"), lambda path: write_json(path, {}), lambda path: make(path)]
)
def test_place_that_cannot_be_written_is_named(tmp_path: Path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        write(tmp_path / "file" / "below")


def make(path: Path, content: str = "new", **options) -> None:
    with new_folder(path, **options) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text(content)


def test_folder_appears_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "deep" / "target"
    with new_folder(target) as staging:
        (staging / "a.txt").write_text("x")
        assert not target.exists()
        assert staging.name.startswith(storage.PARTIAL_PREFIX)
    assert names(target) == {"a.txt"}
    assert names(target.parent) == {"target"}
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_no_folder(tmp_path: Path, error: type[BaseException], replace: bool):
    with pytest.raises(error), new_folder(tmp_path / "target", replace=replace) as staging:
        (staging / "a.txt").write_text("x")
        raise error
    assert names(tmp_path) == set()


def test_exception_leaves_the_folder_that_was_to_be_replaced(tmp_path: Path):
    make(tmp_path / "target", "old")
    with pytest.raises(ValueError), new_folder(tmp_path / "target", replace=True):
        raise ValueError
    assert (tmp_path / "target" / "sub" / "a.txt").read_text() == "old"
    assert names(tmp_path) == {"target"}


@pytest.mark.parametrize(("replace", "content"), [(False, "old"), (True, "new")])
def test_existing_folder_stays_unless_it_is_to_go(tmp_path: Path, replace: bool, content: str):
    make(tmp_path / "target", "old")
    (tmp_path / "target" / "extra").touch()
    make(tmp_path / "target", "new", replace=replace)
    assert (tmp_path / "target" / "sub" / "a.txt").read_text() == content
    assert (tmp_path / "target" / "extra").exists() is not replace
    assert names(tmp_path) == {"target"}


def test_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "target").mkdir()
    make(tmp_path / "target")
    assert (tmp_path / "target" / "sub" / "a.txt").read_text() == "new"


def test_failed_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path / "target", "old")
    real = os.replace

    def replace(source, destination):
        if Path(source).name.startswith(f"{storage.PARTIAL_PREFIX}target-"):
            fail()
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="target"):
        make(tmp_path / "target", "new", replace=True)
    assert (tmp_path / "target" / "sub" / "a.txt").read_text() == "old"
    assert names(tmp_path) == {"target"}


def test_json_round_trip(tmp_path: Path):
    value = {"text": "naïve\u2028", "numbers": [1, 2.5, None]}
    assert read_json(write_json(tmp_path / "a.json", value)) == value
    assert "naïve" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_unreadable_json_is_a_data_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def lines_file(folder: Path, count: int = 3) -> Path:
    path = folder / "lines.jsonl"
    for step in range(count):
        append_json_line(path, {"step": step})
    return path


def test_torn_last_line_is_left_out(tmp_path: Path):
    path = lines_file(tmp_path)
    content = path.read_bytes()
    for cut in range(1, len('{"step": 2}\n')):
        path.write_bytes(content[:-cut])
        assert [line["step"] for line in read_json_lines(path)] == ([0, 1, 2] if cut == 1 else [0, 1])


def test_lines_keep_text_with_odd_separators(tmp_path: Path):
    """Samples hold whatever a model writes, line separators of Unicode among it."""
    texts = ["a\u2028b", "a\x85b", "a\nb\rc", "a\x0bb\x1cc", "a\u2029"]
    for text in texts:
        append_json_line(tmp_path / "lines.jsonl", {"text": text})
    assert [line["text"] for line in read_json_lines(tmp_path / "lines.jsonl")] == texts


def test_not_a_number_is_seen_in_lines(tmp_path: Path):
    append_json_line(tmp_path / "lines.jsonl", {"loss": float("nan"), "grad_norm": float("inf")})
    [line] = read_json_lines(tmp_path / "lines.jsonl")
    assert line["loss"] != line["loss"]
    assert line["grad_norm"] == float("inf")


def test_missing_lines_file_is_empty(tmp_path: Path):
    assert read_json_lines(tmp_path / "none.jsonl") == []
    keep_json_lines(tmp_path / "none.jsonl", lambda line: True)
    assert names(tmp_path) == set()


def test_lines_past_a_step_are_dropped(tmp_path: Path):
    path = lines_file(tmp_path, 5)
    keep_json_lines(path, lambda line: line["step"] <= 2)
    append_json_line(path, {"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_append_after_a_torn_line_loses_only_that_line(tmp_path: Path):
    path = lines_file(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-4])
    keep_json_lines(path, lambda line: True)
    append_json_line(path, {"step": 7})
    assert [line["step"] for line in read_json_lines(path)] == [0, 7]


def test_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "here"))
    assert storage.cache_root() == tmp_path / "here"
    monkeypatch.setenv("LLMFORGE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert storage.cache_root().name == "llmforge"


class SafetensorError(Exception):
    """As the package raises it: the number of the error is in its text only."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_is_known_whoever_tells_of_it(error):
    assert is_disk_full(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("unexpected pos"),
        SafetensorError("(os error 2)"),
        ValueError("28"),
    ],
)
def test_what_is_no_full_disk(error):
    assert not is_disk_full(error)


def test_torch_s_own_words_for_a_full_disk(tmp_path):
    """It has several, by where in the file the room ends. RLIMIT_FSIZE stands in for the disk."""
    code = """
import resource, signal, sys, torch
from llmforge.storage.files import is_disk_full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
failed = 0
for state, step in (({"x": torch.zeros(100_000)}, 20_011), ({"last_epoch": 3, "base_lrs": [0.1]}, 50)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    torch.save(state, sys.argv[1])
    with open(sys.argv[1], "rb") as file:
        size = len(file.read())
    for limit in range(0, size, step):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            torch.save(state, sys.argv[1])
        except Exception as error:
            failed += 1
            assert is_disk_full(error), (limit, size, repr(error))
assert failed > 30, failed
print("known")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.pt")], capture_output=True, text=True)
    assert done.stdout.strip() == "known", done.stderr


def test_file_appears_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "deep" / "a.bin"
    with new_file(target) as temporary:
        temporary.write_bytes(b"x")
        assert not target.exists()
        assert names(target.parent) == {temporary.name}
        sweep_partial(target.parent)
        assert temporary.exists()  # its writer lives
    assert target.read_bytes() == b"x"
    assert names(target.parent) == {"a.bin"}
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, PermissionError])
def test_exception_leaves_the_file_that_was_there(tmp_path: Path, error: type[BaseException]):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), new_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise error
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "old"


_KILLED = """
import os, sys, time
from llmforge.storage.files import new_file, new_folder
how, where = sys.argv[1:]
if how == "aside":  # between moving the old one aside and putting the new one in place
    real, calls = os.replace, []
    def replace(source, target):
        real(source, target)
        os.kill(os.getpid(), 9)
    os.replace = replace
with (new_file if how == "file" else new_folder)(where, **({"replace": True} if how == "aside" else {})) as staging:
    (staging if how == "file" else staging / "a.txt").write_text("new")
    if how != "aside":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["file", "folder", "aside"])
def test_mode_25_what_a_killed_process_left_is_swept_and_put_back(tmp_path: Path, how: str, monkeypatch):
    target = tmp_path / "target"
    make(target, "old")
    where = tmp_path / "other" if how == "file" else target
    done = subprocess.run([sys.executable, "-c", _KILLED, how, str(where)], check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2
    sweep_partial(tmp_path)
    assert len(names(tmp_path)) == 2, "too young to tell a dead one from one being made"
    monkeypatch.setattr(storage, "_UNCLAIMED_SECONDS", -1.0)
    sweep_partial(tmp_path, "another")
    assert len(names(tmp_path)) == 2
    sweep_partial(tmp_path)
    assert names(tmp_path) == {"target"}
    assert (target / "sub" / "a.txt").read_text() == "old"


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_library_s_own_words_for_a_full_disk_are_told_as_one(tmp_path, make):
    """tokenizers raises a plain exception."""
    with (
        pytest.raises(StorageError, match=r"Cannot write .*new: No space left on device\. Free some space"),
        make(tmp_path / "new"),
    ):
        raise Exception("No space left on device (os error 28)")
    assert names(tmp_path) == set()


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(tmp_path):
    """The next one would be glued to it, and both be lost."""
    path = tmp_path / "lines.jsonl"
    append_json_line(path, {"step": 1})

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, resource.RLIM_INFINITY))
        with pytest.raises(OSError):
            append_json_line(path, {"step": 2, "text": "x" * 100})
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        append_json_line(path, {"step": 3})

    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            child()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
