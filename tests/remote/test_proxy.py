"""The proxy does to a request what it was told, and nothing to others: what it shows of the library rests on that."""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

import pytest
from remote.proxy import FaultProxy
from remote.runs import made_checkpoint


def ask(proxy: FaultProxy, method: str, path: str, body: bytes | None = None, timeout: float = 5.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=timeout)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.fixture
def up(bucket) -> str:
    return f"/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=a%2Fb"


@pytest.fixture
def down(bucket) -> str:
    return f"/storage/v1/b/{bucket.name}/o/a%2Fb?alt=media"


def test_what_is_not_hit_passes_and_is_seen(proxy, bucket, up, down):
    proxy.add("500", "upload", name="other", times=9)
    assert ask(proxy, "POST", up, b"hello")[0] == 200
    assert ask(proxy, "GET", down) == (200, b"hello")
    assert [(seen.phase, seen.name, seen.fault, seen.status) for seen in proxy.seen] == [
        ("upload", "a/b", "", 200),
        ("download", "a/b", "", 200),
    ]
    assert ask(proxy, "DELETE", f"/storage/v1/b/{bucket.name}/o/a%2Fb")[0] in (200, 204)
    assert (proxy.seen[-1].phase, proxy.seen[-1].name, bucket.names()) == ("delete", "a/b", [])


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_statuses_hit_as_often_as_told(proxy, bucket, up, status):
    proxy.add(str(status), "upload", times=2, after=1)
    assert [ask(proxy, "POST", up, b"x")[0] for _ in range(4)] == [200, status, status, 200]
    assert bucket.names() == ["a/b"]


@pytest.mark.parametrize("kind", ["reset before", "reset after"])
def test_a_reset_reaches_nobody(proxy, bucket, up, kind):
    proxy.add(kind, "upload")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask(proxy, "POST", up, b"x" * 10_000_000)
    assert bucket.names() == []


def test_a_lost_response_is_of_something_done(proxy, bucket, up):
    proxy.add("lost response", "upload")
    with pytest.raises(ConnectionResetError):
        ask(proxy, "POST", up, b"hello")
    assert bucket.read("a/b") == b"hello"


def test_one_bit_flips_on_the_way(proxy, bucket, up, down):
    proxy.add("corrupt up", "upload")
    assert ask(proxy, "POST", up, b"hello")[0] == 200
    assert bucket.read("a/b") == b"hemlo"
    proxy.add("corrupt down", "download")
    assert ask(proxy, "GET", down) == (200, b"hello")
    assert ask(proxy, "GET", down) == (200, b"hemlo")


def test_of_a_multipart_upload_it_is_a_bit_of_the_content(proxy, bucket):
    body = b'--==0==\nContent-Type: application/json\n\n{"name": "a/c"}\n--==0==\nContent-Type: text/plain\n\nhello\n--==0==--'
    path = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart"
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=5)
    proxy.add("corrupt up", "upload", name="a/c")
    connection.request("POST", path, body, {"Content-Type": 'multipart/related; boundary="==0=="'})
    assert json.loads(connection.getresponse().read())["name"] == "a/c"
    connection.close()
    assert bucket.read("a/c") == b"hemlo"


def test_a_reply_can_be_cut(proxy, bucket, down):
    bucket.write("a/b", b"x" * 1000)
    proxy.add("cut down", "download")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ask(proxy, "GET", down)


def test_a_black_hole_answers_nothing_till_it_is_over(proxy, bucket, up):
    proxy.add("black hole", "upload")
    failed = []

    def lost() -> None:
        try:
            ask(proxy, "POST", up, b"x", timeout=20)
        except OSError as error:
            failed.append(type(error))

    thread = threading.Thread(target=lost)
    thread.start()
    time.sleep(0.3)
    assert failed == []
    proxy.clear()
    thread.join()
    assert failed == [ConnectionResetError]
    assert bucket.names() == []


def test_a_slow_link_is_slow_both_ways(proxy, bucket, up, down):
    proxy.add("slow", rate=1_000_000, times=float("inf"))
    began = time.monotonic()
    assert ask(proxy, "POST", up, b"x" * 200_000)[0] == 200
    assert time.monotonic() - began > 0.2
    began = time.monotonic()
    assert len(ask(proxy, "GET", down)[1]) == 200_000
    assert time.monotonic() - began > 0.2


def test_damage_is_seen_in_what_was_whole_before(bucket, tmp_path):
    """The watch over a bucket reads an object again when it was written again, with as many bytes too."""
    folder = made_checkpoint(tmp_path / "mine", 1)
    for path in folder.iterdir():
        bucket.write(f"mine/checkpoint-1/{path.name}", path.read_bytes())
    assert bucket.damage("mine") == bucket.damage("mine") == []
    whole = (folder / "model.safetensors").read_bytes()
    bucket.write("mine/checkpoint-1/model.safetensors", bytes([whole[0] ^ 1]) + whole[1:])
    assert bucket.damage("mine") == ["checkpoint-1/model.safetensors: is damaged"]
    bucket.write("mine/checkpoint-1/model.safetensors", whole)
    assert bucket.damage("mine") == []
    bucket.delete("mine/checkpoint-1/optimizer.pt")
    assert bucket.damage("mine") == ["checkpoint-1/optimizer.pt: is missing"]
