"""Sources behind URLs: a store in memory, and a web server on this machine."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from llmforge.configs.source import Source, without_secrets
from llmforge.data.documents import Account
from llmforge.data.sources import remote
from llmforge.data.sources.finding import check_path
from llmforge.data.sources.units import find_units, read_unit
from llmforge.errors import ConfigError, DataError


def texts(found) -> dict[str, str]:
    return {document.name: document.text for document in found[1]}


@pytest.fixture
def downloads(own_cache: Path, monkeypatch) -> Path:
    """The folder of fetched files, empty; without waits between attempts."""
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    return own_cache / "downloads"


@pytest.fixture
def memory(downloads):
    """Puts files into fsspec's store in memory."""
    store = fsspec.filesystem("memory")

    def put(files: dict[str, bytes | str]) -> None:
        for name, content in files.items():
            store.pipe(f"/bucket/{name}", content.encode() if isinstance(content, str) else content)

    yield put
    store.store.clear()
    store.pseudo_dirs[:] = [""]


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` and counts what it is asked for.

    Attributes:
        files: Path → content.
        headers: Path → headers to send along.
        gets: Path, with its query → GET requests.
        faults: Path → what to do to the next bodies: None sends it whole, a number cuts it there, bytes replace it.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.extra: dict[str, dict[str, str]] = {}
        self.gets: Counter[str] = Counter()
        self.faults: dict[str, list[int | bytes | None]] = {}
        self.authorization: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self.server.gets[self.path] += 1
        self._answer(body=True)

    def _answer(self, body: bool):
        self.server.authorization.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path.endswith("/"):
            names = [name for name in self.server.files if name.startswith(path)]
            links = "".join(f'<a href="{name}">{name}</a>' for name in names)
            return self._send(links.encode(), {"Content-Type": "text/html"}, body)
        if path == "/broken":
            self.send_error(503)
            return None
        if path not in self.server.files:
            self.send_error(404)
            return None
        return self._send(self.server.files[path], self.server.extra.get(path, {}), body)

    def _send(self, content: bytes, headers: dict[str, str], body: bool):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            faults = self.server.faults.get(self.path.partition("?")[0])
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                content = content[:fault]
                self.close_connection = True
            self.wfile.write(fault if isinstance(fault, bytes) else content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(downloads):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


# What is read


def test_a_remote_folder_is_read_as_a_local_one(memory, load):
    memory({"repo/b.go": "b", "repo/sub/a.go": "a", "repo/x.png": b"\0", "repo/vendor/c.go": "c", "repo/.git/d.go": "d"})
    found = load("memory://bucket/repo")
    assert texts(found) == {"b.go": "b", "sub/a.go": "a"}
    assert [unit.name for unit in found[0]] == ["b.go", "sub/a.go"]
    assert found[2].skipped == {"another suffix": 1, "in a vendored folder": 1}


def test_only_what_is_read_is_fetched(memory, load, downloads):
    memory({"a.go": "a", "b.go": "b", "c.go": "c", "d.xyz": "d"})
    assert texts(load("memory://bucket", max_files=2)) == {"a.go": "a", "b.go": "b"}
    assert len([path for path in downloads.iterdir() if path.suffix != ".json"]) == 2


def test_a_remote_glob_and_a_single_file(memory, load):
    memory({"a.md": "a", "sub/b.md": "b", "sub/c.txt": "c", "d.log": "d"})
    assert texts(load("memory://bucket/**/*.md")) == {"a.md": "a", "sub/b.md": "b"}
    assert texts(load("memory://bucket/*.log")) == {"d.log": "d"}
    assert texts(load("memory://bucket/sub/c.txt")) == {"c.txt": "c"}


def test_compressed_files_and_archives_are_read_where_they_were_fetched_to(memory, load):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("c.txt", "three")
    memory({"a.txt.gz": gzip.compress(b"one"), "b.zip": archive.getvalue()})
    assert texts(load("memory://bucket", format="text")) == {"a.txt.gz": "one", "b.zip!/c.txt": "three"}


def test_a_web_server_gives_files_and_folders(server, load):
    server.files = {"/docs/a%20b.md": b"a", "/docs/c.txt": b"c", "/other.md": b"no"}
    assert texts(load(f"{server.url}/docs/c.txt")) == {"c.txt": "c"}
    assert texts(load(f"{server.url}/docs/")) == {"a b.md": "a", "c.txt": "c"}


def test_a_file_behind_a_query_is_called_after_its_path(server, load):
    server.files = {"/a.txt": b"text"}
    assert texts(load(f"{server.url}/a.txt?version=3&x=*")) == {"a.txt": "text"}


# The cache


def test_what_the_store_says_is_the_same_is_not_fetched_again(server, load):
    server.files, server.extra = {"/a.txt": b"one"}, {"/a.txt": {"ETag": '"1"'}}
    first = load(f"{server.url}/a.txt")
    assert texts(load(f"{server.url}/a.txt")) == texts(first) == {"a.txt": "one"}
    assert server.gets["/a.txt"] == 1
    server.files["/a.txt"], server.extra["/a.txt"] = b"two", {"ETag": '"2"'}
    second = load(f"{server.url}/a.txt")
    assert texts(second) == {"a.txt": "two"}
    assert first[0][0].digest != second[0][0].digest


def test_another_size_is_another_file(server, load):
    server.files, server.extra = {"/a.txt": b"one"}, {"/a.txt": {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}}
    load(f"{server.url}/a.txt")
    server.files["/a.txt"] = b"longer"
    assert texts(load(f"{server.url}/a.txt")) == {"a.txt": "longer"}


def test_a_store_that_tells_no_version_is_asked_each_time(server, load):
    server.files = {"/a.txt": b"one"}
    load(f"{server.url}/a.txt")
    server.files["/a.txt"] = b"two"
    assert texts(load(f"{server.url}/a.txt")) == {"a.txt": "two"}


def test_files_that_differ_in_their_query_are_kept_apart_and_signatures_do_not_count(server, load):
    server.files, server.extra = {"/get": b"text"}, {"/get": {"ETag": '"1"'}}
    for query in ("key=a", "key=b", "key=b&X-Amz-Signature=1&X-Amz-Date=2", "X-Amz-Signature=3&key=b"):
        load(f"{server.url}/get?{query}", format="text")
    assert sum(server.gets.values()) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "notes"])
def test_a_damaged_cache_is_fetched_again(server, load, downloads, damage):
    server.files, server.extra = {"/a.txt": b"one text"}, {"/a.txt": {"ETag": '"1"'}}
    load(f"{server.url}/a.txt")
    (path,) = (path for path in downloads.iterdir() if path.suffix != ".json")
    if damage == "gone":
        path.unlink()
    elif damage == "notes":
        (downloads / f"{path.name}.json").write_text("{")
    else:
        path.write_bytes(b"one texT" if damage == "flipped" else b"one")
    assert texts(load(f"{server.url}/a.txt")) == {"a.txt": "one text"}


def test_a_download_that_breaks_off_is_tried_again_and_never_used(server, load, downloads):
    server.files, server.extra = {"/a.txt": b"text " * 1000}, {"/a.txt": {"ETag": '"1"'}}
    server.faults["/a.txt"] = [100, 0]
    assert texts(load(f"{server.url}/a.txt")) == {"a.txt": "text " * 1000}
    server.extra["/a.txt"] = {"ETag": '"2"'}
    server.faults["/a.txt"] = [100] * 3
    before = sorted(downloads.iterdir())
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        load(f"{server.url}/a.txt")
    assert sorted(downloads.iterdir()) == before


def test_a_store_that_gives_less_than_it_promises_is_refused(memory, load, monkeypatch, downloads):
    memory({"a.txt": "whole text"})
    store = fsspec.filesystem("memory")
    monkeypatch.setattr(type(store), "get_file", lambda self, path, target, **_: Path(target).write_bytes(b"whole"))
    with pytest.raises(DataError, match="5 bytes came of 10"):
        load("memory://bucket/a.txt")
    assert list(downloads.iterdir()) == []


def test_bytes_that_flip_on_the_way_are_seen_where_the_store_keeps_a_checksum(server, load):
    content = b"text"
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    server.files, server.extra = {"/a.txt": content}, {"/a.txt": {"Content-MD5": md5}}
    server.faults["/a.txt"] = [b"tExt"]
    assert texts(load(f"{server.url}/a.txt")) == {"a.txt": "text"}
    assert server.gets["/a.txt"] == 2


def test_names_in_a_store_do_not_lead_out_of_the_cache(memory, load, downloads, tmp_path):
    store = fsspec.filesystem("memory")
    for name in ("/bucket/../../up.txt", "/bucket/a\\..\\b.txt"):
        store.store[name] = fsspec.implementations.memory.MemoryFile(store, name, b"text")
    found = load("memory://bucket")
    assert all(".." not in name.split("/") and "\\" not in name for name in texts(found))
    assert all(path.parent == downloads for path in downloads.rglob("*"))
    assert {Path(unit.path).parent for unit in found[0]} == {downloads}


# What is refused, and what is never shown


@pytest.mark.parametrize(
    ("path", "told"),
    [("/nothing.txt", "nothing.txt: no such file or folder"), ("/broken", "503"), ("/empty/", "nothing there")],
)
def test_what_is_not_there_is_said_in_one_line(server, load, path, told):
    with pytest.raises(DataError, match=told):
        load(f"{server.url}{path}", format="text")


def test_a_server_that_is_not_there(server, load):
    server.server_close()
    with pytest.raises(DataError, match="cannot be read"):
        load("http://127.0.0.1:1/a.txt")


def test_secrets_of_a_url_are_neither_shown_nor_stored(server, load, downloads):
    host = server.url.removeprefix("http://")
    server.files, server.extra = {"/a.txt": b"text"}, {"/a.txt": {"ETag": '"1"'}}
    url = f"http://user7:hunter2@{host}/a.txt?X-Amz-Signature=s3cr3t&key=k3y"
    units, documents, account = load(url)
    assert any(given is not None for given in server.authorization)
    shown = [units[0].name, units[0].path, units[0].source.name, documents[0].name, str(account)]
    shown += [path.name + path.read_text() for path in downloads.iterdir()]
    with pytest.raises(DataError) as missing:
        load(url.replace("a.txt", "b.txt"))
    with pytest.raises(DataError) as broken:
        load(url.replace("a.txt", "broken"))
    shown += [str(missing.value), str(broken.value), str(missing.value.__cause__)]
    for text in shown:
        assert not any(secret in text for secret in ("hunter2", "s3cr3t", "k3y", "user7"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host/a/b?sig=1#x", "https://host/a/b"),
        ("https://host?sig=1", "https://host"),
        ("gs://bucket/what?.txt", "gs://bucket/what?.txt"),
        ("a/b?c.txt", "a/b?c.txt"),
    ],
)
def test_how_a_url_is_shown(url, shown):
    assert without_secrets(url) == shown
    assert Source(path=url).name == shown


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/c", "gcsfs", "gcs"), ("s3://b/c", "s3fs", "s3")])
def test_a_missing_package_is_one_line_with_what_to_install(monkeypatch, url, package, extra):
    stock = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else stock(name, *rest))
    told = rf"{url} needs the package {package}.*pip install 'llmforge\[{extra}\]'"
    with pytest.raises(DataError, match=told):
        check_path(Source(path=url), "--corpus")
    with pytest.raises(DataError, match=told):
        list(find_units(Source(path=url), Account()))


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(DataError, match="unknown protocol"):
        check_path(Source(path="gopher://host/a"), "--corpus")


# Books by number


def test_books_are_fetched_by_their_ids_and_kept(server, load):
    server.files = {f"/{i}/pg{i}.txt": f"Book {i}".encode() for i in (1342, 1661)}
    server.extra = {path: {"ETag": '"1"'} for path in server.files}
    url = f"{server.url}/{{id}}/pg{{id}}.txt"
    for path in ("1342 1661", "1342,1661", "1342, 1661,1342"):
        found = load(path, format="gutenberg", gutenberg_url=url)
        assert texts(found) == {"pg1342.txt": "Book 1342", "pg1661.txt": "Book 1661"}
        assert {unit.kind for unit in found[0]} == {"gutenberg"}
    assert sum(server.gets.values()) == 2


def test_a_book_that_is_not_there_is_named(server, load):
    with pytest.raises(DataError, match=r"pg99\.txt: no such file"):
        load("99", format="gutenberg", gutenberg_url=f"{server.url}/pg{{id}}.txt")


def test_a_book_url_without_a_place_for_the_id_is_refused(load):
    with pytest.raises(ConfigError, match=r"--gutenberg_url .* has no \{id\}"):
        load("99", format="gutenberg", gutenberg_url="http://host/book.txt")


def test_zipped_books_and_a_file_called_like_an_id(server, load, root, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("84-0.txt", "Frankenstein")
    server.files = {"/84.zip": archive.getvalue()}
    found = load("84", format="gutenberg", gutenberg_url=f"{server.url}/{{id}}.zip")
    assert texts(found) == {"84.zip!/84-0.txt": "Frankenstein"}
    assert found[1][0].kind == "text"
    monkeypatch.chdir(root)
    (root / "84").write_text("a local file")
    assert texts(load("84", format="gutenberg")) == {"84": "a local file"}


def test_reading_a_unit_needs_no_network(server):
    server.files = {"/a.txt": b"text"}
    account = Account()
    (unit,) = find_units(Source(path=f"{server.url}/a.txt"), account)
    server.files.clear()
    assert [document.text for document in read_unit(unit, account)] == ["text"]


def test_what_was_not_used_for_a_month_is_removed(server, load, downloads):
    server.files = {"/a.txt": b"one", "/b.txt": b"two"}
    server.extra = {"/a.txt": {"ETag": '"1"'}, "/b.txt": {"ETag": '"1"'}}
    load(f"{server.url}/a.txt")
    load(f"{server.url}/b.txt")
    for path in downloads.iterdir():
        os.utime(path, (time.time() - 31 * 86_400,) * 2)
    load(f"{server.url}/b.txt")
    remote.sweep_downloads(30)
    assert sorted(path.suffix for path in downloads.iterdir()) == ["", ".json"]
    load(f"{server.url}/b.txt")
    assert server.gets["/b.txt"] == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (type("ClientConnectorDNSError", (OSError,), {}), "its host is not found. Check the URL and the network"),
        (type("NoCredentialsError", (Exception,), {}), "no credentials are found. Set those of the store"),
        (type("HttpError", (Exception,), {"status": 403}), "the store answers 403, it is not allowed. Check the credentials"),
        (type("HttpError", (Exception,), {"status": 500}), "the store answers 500. Check URL and network"),
        (type("ServerTimeoutError", (Exception,), {}), r"no connection \(ServerTimeoutError\). Check the network"),
        (type("OddError", (Exception,), {}), "OddError. Check URL, credentials and network"),
    ],
)
def test_what_a_store_raises_is_told_in_words_and_never_in_its_own(error, told):
    with pytest.raises(DataError, match=f"^gs://b/x cannot be read: {told}") as caught, remote._failures("gs://b/x"):
        raise error("https://host/x?signature=secret")
    assert "secret" not in str(caught.value)
    assert caught.value.see == "bucket-access"
