"""`llmforge doctor --remote`: a store that takes what a run sends, and stores that do not."""

from __future__ import annotations

import pytest

from llmforge.diagnosis.store import look_at_store


def told(what: str) -> None:
    assert what.startswith("writing to ")


def test_a_bucket_that_may_be_written(bucket):
    found = look_at_store(f"{bucket.url}/runs", told)
    assert (found.level, found.text) == ("ok", f"{bucket.url}/runs: written, read back and deleted")
    assert bucket.names() == []


@pytest.mark.parametrize(("operation", "what"), [("upload", "written"), ("download", "read back"), ("delete", "deleted")])
def test_a_bucket_that_refuses(bucket, proxy, operation, what):
    proxy.add("403", operation, times=float("inf"))
    found = look_at_store(f"{bucket.url}/runs", told)
    assert (found.level, found.see) == ("failure", "bucket-access")
    assert f"nothing can be {what} there: permission denied" in found.text
    assert "roles/storage.objectUser" in found.remedy


def test_a_folder_that_refuses():
    found = look_at_store("file:///proc/runs", told)
    assert (found.level, found.see) == ("failure", "bucket-access")
    assert "nothing can be written there" in found.text


def test_a_folder_that_takes_it(tmp_path):
    assert look_at_store(f"file://{tmp_path}/runs", told).level == "ok"


def test_a_store_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = look_at_store("gs://bucket/runs", told)
    assert found.level == "failure"
    assert "needs the package gcsfs" in found.text
    assert "pip install 'llmforge[gcs]'" in found.remedy
