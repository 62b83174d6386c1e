"""A secret that is used all the time, against stores that repeat it in their messages, is found nowhere afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from helpers import write_documents
from reliability.child_runs import TINY
from remote.runs import made_run

from llmforge.checkpoints import inspect
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.probe import probe
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.runtime.commands import run_command

CANARY = "canary-4b1d-5ecret"
EVER = float("inf")
KINDS = ("401", "403", "429", "500", "503", "reset after", "cut down")


@pytest.fixture
def account(proxy, tmp_path, monkeypatch) -> Path:
    """A service account whose token, key id and file all hold the canary."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    proxy.token = CANARY
    path = tmp_path / "account.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "test",
                "private_key_id": CANARY,
                "private_key": key.private_bytes(serialization.Encoding.PEM, kind, plain).decode(),
                "client_email": f"{CANARY}@test.iam.gserviceaccount.com",
                "token_uri": f"{proxy.url}/token",
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold the canary, the account's own apart."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "account.json"]
    return [str(path) for path in paths if CANARY.encode() in path.read_bytes()]


def watched_arguments(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What a process printed, and the arguments of all processes while it ran."""
    seen = b""
    while process.poll() is None:
        time.sleep(0.02)  # arguments stay as long as their process
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen += path.read_bytes()
            except OSError:
                continue
    return process.communicate()[0], seen


def test_the_canary_would_be_seen(account, proxy, bucket):
    """The secret is really sent, and really repeated: without this the other tests would show nothing."""
    remote = RemoteFolder(f"{bucket.url}/mine")
    remote.write("x", b"x")
    assert bucket.read("mine/x") == b"x"
    import gcsfs

    store = gcsfs.GCSFileSystem(token=str(account), endpoint_url=proxy.url, skip_instance_cache=True)
    proxy.add("403", times=EVER)
    with pytest.raises(OSError, match=CANARY):
        store.cat_file(f"{bucket.name}/mine/x")


@pytest.mark.parametrize("kind", KINDS)
def test_no_exception_and_no_log_holds_it(kind, account, proxy, bucket, quick, capfd, caplog, tmp_path):
    proxy.add(kind, times=EVER)
    (tmp_path / "file").write_bytes(b"x")
    remote = RemoteFolder(f"{bucket.url}/mine")
    works = [
        lambda: probe(remote),
        lambda: remote.put(tmp_path / "file", "a"),
        lambda: remote.get("a", tmp_path / "got"),
        lambda: remote.sizes(),
        lambda: remote.delete("a"),
    ]
    for work in works:
        try:
            work()
        except RemoteError as error:
            told = "".join(traceback.format_exception(error)) + repr(error.__dict__)
            if CANARY in told:
                raise AssertionError(told) from None
    out, err = capfd.readouterr()
    assert CANARY not in out + err + caplog.text
    assert leaks(tmp_path) == []


def test_a_whole_run_leaves_it_nowhere(account, proxy, bucket, tmp_path, monkeypatch):
    """Uploaded by the command in a process of its own, through faults, and to the end: output, folder, bucket, arguments."""
    run = made_run(tmp_path / "mine", 1, 2)
    for kind in ("401", "500", "403"):
        proxy.add(kind, "upload", name="checkpoint-2")
    command = [sys.executable, "-m", "llmforge", "checkpoints", "upload", str(run), "--all", "--remote", bucket.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, seen = watched_arguments(process)
    assert process.returncode == 0, out
    assert CANARY.encode() not in out + seen
    assert leaks(tmp_path) == []
    assert [name for name, body in bucket.everything().items() if CANARY.encode() in body or CANARY in name] == []
    assert proxy.count("upload", "checkpoint-2") > 7


@pytest.mark.slow
def test_a_training_leaves_it_nowhere(account, proxy, bucket, tmp_path):
    """Its records, its report and what the process that sends says, too."""
    corpus = write_documents(tmp_path / "corpus")
    for kind in ("401", "500", "403"):
        proxy.add(kind, "upload", name="checkpoint-1")
    words = [*TINY, "--corpus", str(corpus), "--use_cpu", "--max_steps", "3", "--save_steps", "1", "--output_dir", "run"]
    command = [sys.executable, "-m", "llmforge", "pretrain", *words, "--remote", bucket.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    out, seen = watched_arguments(process)
    assert process.returncode == 0, out
    assert CANARY.encode() not in out + seen
    assert (tmp_path / "run" / "report.html").is_file()
    assert leaks(tmp_path) == []
    assert [name for name, body in bucket.everything().items() if CANARY.encode() in body or CANARY in name] == []
    assert proxy.count("upload", "checkpoint-1") > 7


@pytest.mark.parametrize(
    "url", [f"s3://key:{CANARY}@bucket/run", f"https://store/run?X-Goog-Signature={CANARY}", f"gs://bucket/run?token={CANARY}"]
)
@pytest.mark.parametrize("verb", ["list", "download", "status"])
def test_a_url_with_a_secret_in_it_is_not_repeated(verb, url, proxy, capfd):
    assert run_command(inspect.main, [verb, url]) != 0
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("url", [f"s3://key:{CANARY}@bucket/run", f"gs://bucket/run?token={CANARY}"])
def test_remote_with_a_secret_in_it_is_refused_without_repeating_it(url):
    from llmforge.configs.remote import RemoteArguments
    from llmforge.errors import ConfigError

    with pytest.raises(ConfigError) as error:
        RemoteArguments(remote=url)
    assert CANARY not in str(error.value)


def test_s3_repeats_no_secret(s3_proxy, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    (tmp_path / "file").write_bytes(b"x")
    remote = RemoteFolder("s3://bucket/mine")
    for kind in ("401", "403", "500"):
        s3_proxy.clear()
        s3_proxy.add(kind, times=EVER)
        with pytest.raises(RemoteError) as error:
            remote.put(tmp_path / "file", "a")
        assert CANARY not in "".join(traceback.format_exception(error.value))
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert leaks(tmp_path) == []
