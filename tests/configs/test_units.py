"""Sizes and times as people write them."""

from __future__ import annotations

import pytest

from llmforge.configs.units import format_count, format_seconds, parse_bytes, parse_seconds
from llmforge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 * 2**30),
        ("12 GB", 12 * 10**9),
        ("800M", 800 * 10**6),
        ("1.5gib", 3 * 2**29),
        ("4096", 4096),
        ("1 TiB", 2**40),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text, "--device_memory") == size


@pytest.mark.parametrize("text", ["", "lots", "12 apples", "-3GiB", "0", "GiB", "1.2.3GB", "i", "12i3"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match="--device_memory"):
        parse_bytes(text, "--device_memory")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("48h", 172800), ("1h30m", 5400), ("30m", 1800), ("2d", 172800), ("90s", 90), ("1.5 h", 5400), ("5min", 300)],
)
def test_times(text, seconds):
    assert parse_seconds(text, "--deadline") == seconds


@pytest.mark.parametrize("text", ["", "soon", "30", "1h half", "-1h", "0s", "1h-5m"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="--deadline"):
        parse_seconds(text, "--deadline")


def test_as_people_read_them():
    assert [format_seconds(value) for value in (5, 65, 7260, 200_000)] == ["5 s", "1 min 5 s", "2 h 1 min", "2 d 7 h"]
    assert [format_count(value) for value in (5, 12_345, 12e6, 1.557e9)] == ["5", "12.3K", "12M", "1.56B"]
