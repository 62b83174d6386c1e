"""A run in a store as far as its JSON tells: enough to list, view, compare and plot its checkpoints, without their weights.

What a checkpoint says of itself is fetched into a temporary folder. The other files stand there with the size that the
store tells, and take no room; whoever wants their bytes asks for them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.checkpoints.manifest import MANIFEST, METADATA, checkpoint_step, is_committed, read_manifest, verify
from llmforge.checkpoints.summary import STATE
from llmforge.errors import CheckpointError, LlmforgeError
from llmforge.runtime.run_folder import EXIT_RECORD, RUN_RECORD
from llmforge.storage.files import is_url, local_path

if TYPE_CHECKING:
    from llmforge.checkpoints.remote import RemoteFolder

_TOLD = (MANIFEST, METADATA, STATE)
#: Of a JSON file that is fetched to be looked at: a million logged losses are some 100 MB.
_MOST_BYTES = 1 << 28


def place(text: str) -> Path | str:
    """A run as it is named on the command line: a URL stays one, ``file://`` is a folder like any other."""
    return text.rstrip("/") if is_url(text) else Path(local_path(text))


def _open(run: str) -> RemoteFolder:
    """Imported here: what looks at a folder of this machine needs none of it."""
    from llmforge.checkpoints.remote import RemoteFolder

    return RemoteFolder(run)


@contextlib.contextmanager
def readable(run: Path | str) -> Iterator[Path]:
    """A folder to look at `run` in: itself, or the outline of a run in a store, which is gone afterwards.

    Errors that name the folder name the URL instead.

    Raises:
        CheckpointError: There is no run, or its records are no JSON of a sane size.
        StorageError: The store cannot be read.
    """
    if isinstance(run, Path):
        yield run
        return
    remote = _open(run)
    with tempfile.TemporaryDirectory(prefix="llmforge-") as name:
        folder = Path(name) / (run.rpartition("/")[2] or "run")
        try:
            _fetch_outline(remote, folder)
            yield folder
        except LlmforgeError as error:
            raise type(error)(error.problem.replace(str(folder), remote.url), error.remedy) from error


def _fetch_outline(remote: RemoteFolder, folder: Path) -> None:
    folder.mkdir()
    wanted = []
    for name, size in remote.sizes().items():
        first, _, rest = name.partition("/")
        is_record = name in (RUN_RECORD, EXIT_RECORD)
        if not is_record and checkpoint_step(Path(first)) is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_record or rest in _TOLD:
            if size > _MOST_BYTES:
                raise CheckpointError(f"{remote.url}/{name} has {size:,} bytes: that is no record of a run.")
            wanted.append(name)
        else:
            with open(path, "wb") as file:
                file.truncate(size)
    if not wanted:
        raise CheckpointError(f"{remote.url} holds no run.", "Give the URL of a run: what --remote said, and the run's name.")
    remote.each(lambda name: remote.get(name, folder / name), wanted)


def fetch_weights(run: str, checkpoints: Sequence[Path]) -> None:
    """Put the weights of checkpoints of an outline where they stand empty, as their manifests list them.

    Raises:
        CheckpointError: One is not as it was committed.
        StorageError: The store cannot be read, or there is no room.
    """
    remote = _open(run)
    for checkpoint in checkpoints:
        files = read_manifest(checkpoint).files
        for name in sorted(path.name for path in checkpoint.glob("*model*.safetensors")):
            if name not in files:
                raise CheckpointError(f"{remote.url}/{checkpoint.name} is damaged: {name} is not in {MANIFEST}.")
            remote.get(f"{checkpoint.name}/{name}", checkpoint / name, files[name].sha256)


def verify_remote(run: str, checkpoint: Path) -> list[str]:
    """As `manifest.verify` for a checkpoint of an outline: every byte in the store is read and hashed, none is kept.

    Raises:
        StorageError: The store cannot be read.
    """
    remote = _open(run)
    problems = [line.replace(str(checkpoint.parent), remote.url) for line in verify(checkpoint, deep=False)]
    if not is_committed(checkpoint):
        return problems
    named = {line.partition(": ")[0] for line in problems}
    files = read_manifest(checkpoint).files

    def differs(name: str) -> bool:
        # Read again before it is told: the bit may have flipped on the way here.
        return all(remote.sha256(f"{checkpoint.name}/{name}") != files[name].sha256 for _ in range(2))

    names = sorted(files.keys() - named)
    return problems + [
        f"{name}: has another SHA-256" for name, bad in zip(names, remote.each(differs, names), strict=True) if bad
    ]
