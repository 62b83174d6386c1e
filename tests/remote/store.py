"""What is in an emulated bucket, asked of the server itself: by other code than the one under test, past the proxy."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote


class Bucket:
    """A bucket of the emulated Google Cloud Storage at `server`, made new.

    Attributes:
        url: ``gs://…``.
    """

    def __init__(self, server: str, name: str):
        self.server, self.name, self.url = server, name, f"gs://{name}"
        self._call("POST", "/storage/v1/b", json.dumps({"name": name}).encode())
        self._looked_at: dict[tuple[str, str], tuple[bytes, str]] = {}

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json" if path.endswith("/b") else "application/octet-stream"} if body else {}
        request = urllib.request.Request(f"{self.server}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.read()
        except http.client.IncompleteRead as error:  # of an object that was replaced meanwhile
            raise ConnectionError(str(error)) from error

    def _list(self, prefix: str) -> dict[str, str]:
        """Name → generation, another one whenever the object was written, of the objects whose name begins so."""
        query = f"prefix={quote(prefix, safe='')}&maxResults=10000"
        listed = json.loads(self._call("GET", f"/storage/v1/b/{self.name}/o?{query}"))
        return {item["name"]: item["generation"] for item in listed.get("items", [])}

    def names(self, prefix: str = "") -> list[str]:
        """Of the objects whose name begins so."""
        return sorted(self._list(prefix))

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        return self._call("GET", f"/download/storage/v1/b/{self.name}/o/{quote(name, safe='')}?alt=media")

    def write(self, name: str, body: bytes) -> None:
        """Put an object there."""
        path = f"/upload/storage/v1/b/{self.name}/o?uploadType=media&name={quote(name, safe='')}"
        request = urllib.request.Request(
            f"{self.server}{path}", body, {"Content-Type": "application/octet-stream"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=30).close()

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._call("DELETE", f"/storage/v1/b/{self.name}/o/{quote(name, safe='')}")

    def everything(self) -> dict[str, bytes]:
        """Every object, by name."""
        return {name: self.read(name) for name in self.names()}

    def checkpoints(self, run: str) -> list[str]:
        """The checkpoints of a run that exist: those with a manifest."""
        found = [name.removeprefix(f"{run}/").partition("/") for name in self.names(f"{run}/checkpoint-")]
        return sorted((one for one, _, rest in found if rest == "manifest.json"), key=lambda name: int(name.split("-")[1]))

    def damage(self, run: str) -> list[str]:
        """What is wrong with the checkpoints of a run that exist; empty at any moment, or a promise is broken."""
        return list(self._damage(run))

    def _look(self, name: str, generation: str) -> tuple[bytes, str]:
        """An object's bytes and their SHA-256; of a generation that was looked at before, as they were then."""
        if (name, generation) not in self._looked_at:
            body = self.read(name)
            self._looked_at[name, generation] = (
                body if name.endswith("manifest.json") else b"",
                hashlib.sha256(body).hexdigest(),
            )
        return self._looked_at[name, generation]

    def _damage(self, run: str) -> Iterator[str]:
        there = self._list(f"{run}/checkpoint-")
        for path in [path for path in there if path.endswith("/manifest.json")]:
            checkpoint = path.split("/")[1]
            # Between two requests a checkpoint may be deleted, its manifest first.
            try:
                manifest = _manifest(self._look(path, there[path])[0])
            except (urllib.error.HTTPError, ValueError):
                continue
            for name, entry in manifest["files"].items():
                file = f"{run}/{checkpoint}/{name}"
                try:
                    found = self._look(file, there[file])[1] if file in there else None
                except urllib.error.HTTPError:
                    found = None
                if found != entry["sha256"] and checkpoint in self.checkpoints(run):
                    yield f"{checkpoint}/{name}: {'is missing' if found is None else 'is damaged'}"


def _manifest(text: bytes) -> dict:
    """A manifest that holds its own checksum; raises ValueError for one that has been damaged, which nobody takes for one."""
    value = json.loads(text)
    rest = {name: item for name, item in value.items() if name != "checksum"}
    told = hashlib.sha256((json.dumps(rest, indent=2, ensure_ascii=False) + "\n").encode()).hexdigest()
    if value.get("checksum") != told:
        raise ValueError("it is not as it was written")
    return value
