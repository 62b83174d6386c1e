"""What a run has in the store besides its checkpoints: records, curves, samples, the final model."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.uploads import Upload, Uploads
from llmforge.errors import LlmforgeError
from llmforge.runtime.run_folder import DIVERGENCE, EXIT_RECORD, FINAL, METRICS, RUN_RECORD, SAMPLES

#: In this order.
_FILES = (RUN_RECORD, METRICS, SAMPLES, DIVERGENCE, "eval.json", "plots/*", "tokenizer/*", f"{FINAL}/*", "run.log", EXIT_RECORD)
#: Written to the very end.
LAST_RECORDS = ("run.log", EXIT_RECORD)
#: The last of a folder to go: without it a part of ``final/`` is no model.
_LAST = ("config.json",)
#: What a run appends to while it is sent, and so is copied first; all else comes whole, and renamed.
_APPENDED = (METRICS, SAMPLES, "run.log")


class Records:
    """Sends the files of a run that are not in the store as they are now.

    Args:
        run_dir: The run's folder.
        courier: To its place in the store.
        uploads: Where is noted what was sent.
    """

    def __init__(self, run_dir: Path, courier: Courier, uploads: Uploads):
        self.run_dir, self.courier, self.uploads = run_dir, courier, uploads

    def changed(self) -> list[tuple[str, list[int]]]:
        """Names, and size and time, of those that changed since they were sent."""
        found = []
        for pattern in _FILES:
            paths = sorted(self.run_dir.glob(pattern), key=lambda path: (path.name in _LAST, path.name))
            for path in paths:
                try:
                    status = path.stat()
                except OSError:  # replaced at this moment
                    continue
                name, stamp = path.relative_to(self.run_dir).as_posix(), [status.st_size, status.st_mtime_ns]
                known = self.uploads.files.get(name)
                if path.is_file() and not path.name.startswith(".") and (known is None or known.stamp != stamp):
                    found.append((name, stamp))
        return found

    def send(self, name: str, stamp: list[int]) -> str | None:
        """Send one as it is now; what went wrong, in one line, or None."""
        upload = self.uploads.files.setdefault(name, Upload())
        begun, path = time.monotonic(), self.run_dir / name
        self.uploads.change(upload, "uploading", attempts=upload.attempts + 1)
        try:
            with tempfile.TemporaryDirectory(prefix="llmforge-") as folder:
                if name in _APPENDED:
                    path = Path(shutil.copyfile(path, Path(folder) / path.name))
                sent = int(self.courier.ask("put", path, name))
        except (LlmforgeError, OSError) as error:
            self.uploads.change(upload, "failed", error=str(error))
            return str(error)
        seconds = round(time.monotonic() - begun, 1)
        self.uploads.change(upload, "done", bytes=sent, seconds=seconds, attempts=0, error=None, stamp=stamp)
        return None
