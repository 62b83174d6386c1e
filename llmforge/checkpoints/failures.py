"""What a store raises, in one line of ours.

What it says itself is left out: messages quote requests, and those hold tokens and signed addresses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from llmforge.errors import Entry, LlmforgeError, StorageError
from llmforge.storage.files import is_disk_full

Kind = Literal["missing", "denied", "credentials", "unreachable", "corrupt", "refused"]

_REMEDIES = {
    "gs": "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's file.",
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
}
_ROLES = {"gs": "Grant roles/storage.objectUser on the bucket.", "s3": "Allow s3:ListBucket, GetObject, PutObject, DeleteObject."}
_STATUS = re.compile(r"\b([45][0-9]{2})\b")
#: Of google-auth and botocore, by name: importing them takes a second.
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "RefreshError",
    "TokenRetrievalError",
)


class RemoteError(StorageError):
    """A store could not be used.

    Attributes:
        kind: ``missing``: no such bucket or object; ``denied``: no permission; ``credentials``: none, or not
            accepted; ``unreachable``: no answer, or one that says to try later; ``corrupt``: other bytes than were sent;
            ``refused``: a name that could mean something outside of the folder.
    """

    see: Entry = "bucket-access"

    def __init__(self, problem: str, remedy: str = "", kind: Kind = "unreachable"):
        super().__init__(problem, remedy)
        self.kind: Kind = kind


@contextlib.contextmanager
def explain(shown: str, protocol: str) -> Iterator[None]:
    """Turn what a store raises about `shown` into a `RemoteError`; a disk that is full here passes through.

    Raises:
        RemoteError: Instead.
    """
    try:
        yield
    except (LlmforgeError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise _error(error, shown, protocol) from None


def _error(error: Exception, shown: str, protocol: str) -> RemoteError:
    status = _status(error)
    told = f"{type(error).__name__}{f' {status}' if status else ''}"
    if type(error).__name__ in _NO_CREDENTIALS or status == 401:
        return RemoteError(
            f"{shown}: no credentials, or none that are accepted ({told}).", _REMEDIES.get(protocol, ""), "credentials"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return RemoteError(
            f"{shown}: no such bucket, folder or object.", "Check the URL, and that the bucket was made.", "missing"
        )
    if isinstance(error, PermissionError) or status == 403 or str(error).startswith("Forbidden"):
        return RemoteError(f"{shown}: permission denied ({told}).", _ROLES.get(protocol, "Check its permissions."), "denied")
    if type(error).__name__ == "FlexibleChecksumError":  # botocore's
        return RemoteError(f"{shown} did not come as it is stored.", "Look at the network, a proxy for one.", "corrupt")
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return RemoteError(f"{shown} does not answer.", "Check the network.")
    return RemoteError(f"{shown} cannot be used now ({told}).", "Check the network; it may mend by itself.")


def _status(error: Exception) -> int | None:
    """The HTTP status in an exception of gcsfs, aiohttp or botocore."""
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for value in (getattr(error, "code", None), getattr(error, "status", None), told):
        if isinstance(value, (int, str)) and _STATUS.fullmatch(str(value)):
            return int(value)
    cause = error.__cause__
    return _status(cause) if isinstance(cause, Exception) else None
