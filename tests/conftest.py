"""What the tests share: a hermetic environment, a tiny tokenizer, tiny models, small corpora.

Nothing here is downloaded. Seeds are fixed; every folder is the test's own.
"""

from __future__ import annotations

import base64
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before any Hugging Face library is imported: a test that reaches for the hub fails at once.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="disabled")
# Tiny models gain nothing from threads, and on cores that others use as well they wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.figure  # noqa: F401  drawn in the process of the tests: one of its own for each dataset takes longer
import pytest
from helpers import write_documents
from tqdm import tqdm

if TYPE_CHECKING:
    from reliability.child_runs import Child

#: A PNG of one pixel.
_POINT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
#: The launcher variables that would make a test believe it is one of several processes.
_LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION")


# tqdm's lock is shared with forks: a child that is killed while it writes a line would hold up all that are forked after it.
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))


def pytest_collection_finish() -> None:
    """Take the imported libraries and the collected tests out of the garbage collector's sight.

    accelerate collects garbage at the start of every training: half a second among a million objects that stay anyway, and
    longer in a forked process, to which looking at them copies them. What tests leave behind is collected as before.
    """
    if "transformers" in sys.modules:  # some test will train: what draws its curves is there before the first of them
        import llmforge.callbacks.loss_plot  # noqa: F401
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of prepared data for the whole session: the same content is tokenized once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quick_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves are a point, unless the test is marked ``pictures``: drawing them is half of what a run of a few steps costs."""
    module = sys.modules.get("llmforge.callbacks.loss_plot")  # else the test trains nothing, or imports it for itself
    if module is not None and "pictures" not in request.keywords:
        monkeypatch.setattr(module, "_draw", _draw_a_point)


def _draw_a_point(picture: object, train: object, validation: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_POINT)
    return path


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_cache: Path) -> None:
    """Each test in a folder of its own, away from the user's cache and any launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMFORGE_CACHE", str(shared_cache))
    for name in _LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    # A command switches it off for the rest of the process, and pytest then hears the logger twice where a test asks it back.
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, for tests that watch what is written there."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMFORGE_CACHE", str(folder))
    return folder


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts forks of this process, which end with their test: ``start(function, name)``."""
    from reliability.child_runs import Child

    children: list[Child] = []

    def begin(function: Callable[[], int | None], name: str = "child") -> Child:
        children.append(Child(function, name))
        return children[-1]

    yield begin
    for child in children:
        child.kill()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small Go-like files."""
    return write_documents(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def text_tokenizer(corpus: Path):
    """A byte-level BPE of at most 400 entries, with one token of the user's own."""
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.tokenization import train_tokenizer

    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]
    return train_tokenizer(texts, TokenizerArguments(vocab_size=400, special_tokens=["<PR_TITLE>"]))


@pytest.fixture(scope="session")
def tokenizer_folder(text_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`text_tokenizer`, saved."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text_tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path):
    """`text_tokenizer` as transformers loads it."""
    from llmforge.tokenization import load_pretrained

    return load_pretrained(tokenizer_folder)


@pytest.fixture(params=["gpt2-10m", "neox-10m"])
def preset(request: pytest.FixtureRequest) -> str:
    """Both architectures."""
    return request.param
