"""`make pretrain-rocm`, with a rocminfo and an accelerate that only write down what they are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

ACCELERATE = f"""#!{sys.executable}
import json, os, sys
names = ("HSA_OVERRIDE_GFX_VERSION", "PYTORCH_HIP_ALLOC_CONF")
with open(os.environ["RECORD"], "w") as file:
    json.dump({{"arguments": sys.argv[1:], **{{name: os.environ.get(name) for name in names}}}}, file)
"""
#: What rocminfo prints: a CPU agent first, then the cards, each with its instruction set.
AGENT = "  Name:                    {name}\n  Marketing Name:          {marketing}\n"
ISA = "      Name:                    amdgcn-amd-amdhsa--{name}\n"
ALLOCATOR = "garbage_collection_threshold:0.8,max_split_size_mb:512"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the target as on a machine with the given cards; gives exit code, errors and what accelerate was given."""
    for name in ("HSA_OVERRIDE_GFX_VERSION", "PYTORCH_HIP_ALLOC_CONF", "CORPUS", "CONFIG", "ARGS", "MAKEFLAGS", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    tools, record = tmp_path / "bin", tmp_path / "record.json"
    tools.mkdir()

    def program(name: str, text: str) -> None:
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(*arguments: str, cards: tuple[str, ...] = (), **environment: str) -> tuple[int, str, dict]:
        agents = AGENT.format(name="AMD Ryzen 5 5600X", marketing="AMD Ryzen 5 5600X")
        agents += "".join(AGENT.format(name=card, marketing="AMD Radeon") + ISA.format(name=card) for card in cards)
        program("rocminfo", f"#!/bin/sh\ncat <<'END'\n{agents}END\n")
        program("accelerate", ACCELERATE)
        done = subprocess.run(
            ["make", "-o", "setup", "pretrain-rocm", f"BIN={tools}", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment, "PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(record)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr, json.loads(record.read_text()) if record.exists() else {}

    return run


@pytest.mark.parametrize(
    ("cards", "override"),
    [
        (("gfx1030",), None),  # RX 6800 and 6900: ROCm's own RDNA2
        (("gfx1031",), "10.3.0"),  # RX 6700 XT
        (("gfx1032",), "10.3.0"),
        (("gfx1036",), "10.3.0"),
        (("gfx1037",), None),
        (("gfx1100",), None),  # RDNA3
        (("gfx1201",), None),
        (("gfx90a",), None),  # CDNA
        (("gfx942",), None),
        (("gfx1100", "gfx1036"), None),  # the card first, then the processor's own graphics
        (("gfx1031", "gfx1100"), "10.3.0"),
        ((), None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_override_is_for_the_cards_that_need_it(make, cards, override):
    code, errors, given = make("CORPUS=src", cards=cards)
    assert code == 0, errors
    assert given["HSA_OVERRIDE_GFX_VERSION"] == override
    assert given["PYTORCH_HIP_ALLOC_CONF"] == ALLOCATOR
    assert ("names no AMD GPU" in errors) == (not cards)


def test_what_the_user_exported_stays(make):
    exported = {"HSA_OVERRIDE_GFX_VERSION": "10.3.1", "PYTORCH_HIP_ALLOC_CONF": "max_split_size_mb:128"}
    for card in ("gfx1031", "gfx1100"):
        _, _, given = make("CORPUS=src", cards=(card,), **exported)
        assert {name: given[name] for name in exported} == exported


def test_what_is_launched(make):
    _, _, given = make("CORPUS=/my code/src", "CONFIG=demo", "ARGS=--max_steps 9 --bogus", cards=("gfx1031",))
    launch = ["launch", "--config_file", "accelerate_configs/rocm_fp16.yaml", "recipes/pretrain_go.py"]
    assert given["arguments"] == [*launch, "--config", "demo", "--corpus", "/my code/src", "--max_steps", "9", "--bogus"]
    _, _, given = make("CORPUS=src", cards=("gfx1031",))
    assert given["arguments"] == [*launch, "--config", "rx6700xt", "--corpus", "src"]
    assert all((ROOT / path).is_file() for path in launch[2:])


def test_without_a_corpus_there_is_one_clear_line(make):
    code, errors, given = make(cards=("gfx1031",))
    assert (code, given) == (2, {})
    [line] = errors.splitlines()
    assert "CORPUS is not given: make pretrain-rocm CORPUS=DIR" in line


def test_a_corpus_from_the_environment_is_not_one(make):
    """Another program's CORPUS or CONFIG decides nothing here."""
    code, _, given = make(cards=("gfx1031",), CORPUS="elsewhere")
    assert (code, given) == (2, {})
