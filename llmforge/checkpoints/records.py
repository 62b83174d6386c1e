"""What a run has in the store besides its checkpoints: records, curves, samples, the final model."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.uploads import Uploads, changed_files, stamp_of
from llmforge.errors import LlmforgeError
from llmforge.runtime.run_folder import FINAL, METRICS, SAMPLES

#: What a run appends to. Like all that may change while it is sent, which is all but the final model, it is copied first.
APPENDED = (METRICS, SAMPLES, "run.log")
#: Bytes up to which such a file goes whenever it has changed.
_SMALL = 1 << 18
#: A larger one goes once it has grown by this share of what the store has.
_GROWTH = 0.1


class Records:
    """Sends the files of a run that are not in the store as they are now.

    A store cannot append: a file that grows goes whole each time, and in rounds the bytes would grow with the square
    of a run's length. So between two checkpoints a large one goes only when it has grown by a tenth, which in all is
    some ten times its last size; with each checkpoint everything goes, and those that grow go before it, so that who
    goes on from there has its curves up to there; once a stop is asked for, after it.

    Args:
        run_dir: The run's folder.
        courier: To its place in the store.
        uploads: Where is noted what was sent.
    """

    def __init__(self, run_dir: Path, courier: Courier, uploads: Uploads):
        self.run_dir, self.courier, self.uploads = run_dir, courier, uploads
        self._sending: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def changed(self) -> list[tuple[str, list[int]]]:
        """Names, and size and time, of those that changed since they were sent."""
        return changed_files(self.run_dir, self.uploads.copy())

    def due(self) -> list[tuple[str, list[int]]]:
        """As `changed`, without the growing ones that are not worth it yet."""
        record = self.uploads.copy()
        due = []
        for name, stamp in changed_files(self.run_dir, record):
            known = record.files[name].stamp if name in record.files else None
            waits = name in APPENDED and known is not None and stamp[0] > _SMALL
            if not (waits and known and known[0] <= stamp[0] < known[0] * (1 + _GROWTH)):
                due.append((name, stamp))
        return due

    def send_grown(self) -> None:
        """Send what the run appends to, as far as that can be done: what fails, goes with the next round."""
        for name, _ in self.changed():
            if name in APPENDED:
                self.send(name)

    def send(self, name: str) -> str | None:
        """Send one as it is now, unless it has been; what went wrong, in one line, or None.

        Two threads never send the same: the older one might arrive last.
        """
        upload = self.uploads.file(name)
        with self._sending[name], tempfile.TemporaryDirectory(prefix="llmforge-") as folder:
            begun, path = time.monotonic(), self.run_dir / name
            try:
                stamp = stamp_of(path)
                if upload.stamp == stamp:
                    return None
                self.uploads.change(upload, "uploading", attempts=upload.attempts + 1)
                if not name.startswith(f"{FINAL}/"):
                    path = Path(shutil.copyfile(path, Path(folder) / path.name))
                sent = int(self.courier.ask("put", path, name))
            except (LlmforgeError, OSError) as error:
                self.uploads.change(upload, "failed", error=str(error))
                return str(error)
            seconds = round(time.monotonic() - begun, 1)
            self.uploads.change(upload, "done", bytes=sent, seconds=seconds, attempts=0, error=None, stamp=stamp)
        return None
