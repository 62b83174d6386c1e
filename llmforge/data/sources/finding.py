"""The files of a source, wherever they are, filtered by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmforge.configs.source import Source, without_secrets
from llmforge.data.documents import Account
from llmforge.data.sources.kinds import archive_kind, is_minified, kind_of, reason_by_folders, whole_characters
from llmforge.data.sources.remote import RemoteFile, remote_file, remote_files
from llmforge.data.sources.walk import depth_of, fixed_part, has_magic, matcher, names_its_files, walk
from llmforge.errors import ConfigError, DataError
from llmforge.storage.files import is_url, local_path

_BOOK_IDS = re.compile(r"\s*\d+(?:[\s,]+\d+)*\s*")


@dataclass(frozen=True)
class FoundFile:
    """A file that the source takes.

    Attributes:
        name: Its path within the source.
        kind: How it is read.
        fetch: Gives the path where its bytes are on this machine; may download them.
    """

    name: str
    kind: str
    fetch: Callable[[], str]


def book_ids(source: Source) -> list[str]:
    """The ids of the books that a gutenberg source names; empty where its path is a path."""
    if source.format != "gutenberg" or not _BOOK_IDS.fullmatch(source.path) or os.path.exists(source.path):
        return []
    return list(dict.fromkeys(source.path.replace(",", " ").split()))


def find_files(source: Source, account: Account) -> Iterator[FoundFile]:
    """The files of a source of files, sorted by name; what is left out is counted.

    Raises:
        DataError: There is no such file, folder or URL.
        ConfigError: Books are named, and `source.gutenberg_url` has no place for an id.
    """
    if ids := book_ids(source):
        yield from _books(ids, source)
    elif is_url(source.path):
        yield from _remote(source, account)
    else:
        yield from _local(source, account)


def _books(ids: list[str], source: Source) -> Iterator[FoundFile]:
    if "{id}" not in source.gutenberg_url:
        raise ConfigError(
            f"--gutenberg_url {without_secrets(source.gutenberg_url)} has no {{id}}.", "Write {id} where a book's id goes."
        )
    for book in ids:
        url = source.gutenberg_url.replace("{id}", book)
        if is_url(url):
            file = remote_file(url)
            yield FoundFile(file.name, archive_kind(file.name) or "gutenberg", _fetcher(file))
        else:
            path = local_path(url)
            yield FoundFile(os.path.basename(path), archive_kind(path) or "gutenberg", lambda path=path: path)  # type: ignore[misc]


def _fetcher(file: RemoteFile) -> Callable[[], str]:
    return lambda: str(file.fetch())


def _remote(source: Source, account: Account) -> Iterator[FoundFile]:
    files, is_one = remote_files(source)
    named = is_one or (has_magic(source.path) and names_its_files(source.path))
    for file in files:
        reason = None if is_one else reason_by_folders(file.name, source)
        if reason is not None:
            if reason:
                account.skip(reason, file.name)
            continue
        kind = _kind(file.name, source, named, account)
        if kind is not None:
            yield FoundFile(file.name, kind, _fetcher(file))


def _local(source: Source, account: Account) -> Iterator[FoundFile]:
    path = local_path(source.path)
    pattern = None
    root, depth, named = path, None, False
    if os.path.isfile(path):
        kind = _kind(os.path.basename(path), source, True, account)
        if kind is not None:
            yield FoundFile(whole_characters(os.path.basename(path)), kind, lambda: path)
        return
    if not os.path.exists(path) and has_magic(path):
        root, glob = fixed_part(path)
        pattern, depth, named = matcher(glob), depth_of(glob), names_its_files(glob)
    if not os.path.isdir(root):
        raise DataError(f"{path}: no such file or folder.", "Check the path.")
    for name, place in walk(root, source, account, depth):
        if pattern is not None and not pattern.match(name):
            continue
        kind = _kind(name, source, named, account)
        if kind is not None:
            yield FoundFile(whole_characters(name), kind, lambda place=place: place)  # type: ignore[misc]


def _kind(name: str, source: Source, named: bool, account: Account) -> str | None:
    """How the file is read; None, and counted, where it is not."""
    kind = kind_of(name, source, named)
    if kind is None:
        reason = "archive within a tree of code" if archive_kind(name) else "another suffix"
        account.skip(reason, whole_characters(name))
        return None
    if not named and is_minified(name, kind, source):
        account.skip("minified by its name", whole_characters(name))
        return None
    return kind


def check_path(source: Source, flag: str) -> None:
    """A look at a source's path that costs nothing; URLs, hub ids and functions pass unseen.

    Args:
        flag: What the path was given by, as typed: it begins the message.

    Raises:
        DataError: There is no such file or folder, or it is empty, of another kind, or cannot be read.
    """
    from llmforge.data.sources.remote import check_protocol

    if source.format in ("hf", "python") or book_ids(source):
        return
    if is_url(source.path):
        check_protocol(source.path)
        return
    path = Path(local_path(source.path))
    if not path.exists() and has_magic(str(path)):
        path = Path(fixed_part(str(path))[0])
    if not path.exists():
        raise DataError(f"{flag} {path}: no such file or folder.", "Check the path.")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{flag} {path} is neither file nor folder.", "Give one of them.")
    try:
        if path.is_dir() and not any(path.iterdir()):
            raise DataError(f"{flag} {path} is empty.", "Give a folder with text in it.")
    except OSError as error:
        raise DataError(f"{flag} {path} cannot be read: {error.strerror}.", "Check its permissions.") from error
