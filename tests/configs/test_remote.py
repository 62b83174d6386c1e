"""What may be given for the mirror."""

from __future__ import annotations

import pytest

from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import RunArguments
from llmforge.errors import ConfigError


@pytest.mark.parametrize("url", ["gs://bucket", "gs://bucket/prefix/", "s3://bucket/a", "file:///tmp/x", "memory://a/b"])
def test_urls_of_stores_are_taken(url):
    assert RemoteArguments(remote=url).remote == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "no URL"),
        ("gs://", "no URL"),
        ("file:///", "no URL"),
        ("https://storage.example/bucket", "cannot be written"),
        ("sftp://me:hunter2@host/place", "password"),
        ("gs://bucket/a?X-Goog-Signature=hunter2", "query"),
    ],
)
def test_what_is_no_place_to_write_is_refused_without_its_secrets(url, said):
    with pytest.raises(ConfigError, match=said) as caught:
        RemoteArguments(remote=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("given", [{"upload_queue": 0}, {"remote_total_limit": -1}, {"drain_seconds": float("nan")}])
def test_numbers_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError, match=f"--{next(iter(given))}"):
        RemoteArguments(**given)


@pytest.mark.parametrize("url", ["sftp://me:hunter2@host/place/run", "gs://bucket/run?X-Goog-Signature=hunter2"])
def test_a_secret_in_the_url_to_resume_from_is_refused_too(url):
    with pytest.raises(ConfigError, match=r"--resume .* was given with a password or a query") as caught:
        RunArguments(resume=url)
    assert "hunter2" not in str(caught.value)
