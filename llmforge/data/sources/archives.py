"""Zip and tar files, member by member, without unpacking them to disk.

Nothing in an archive is trusted: sizes that it promises, how far it unpacks, and names, which are only names here.
"""

from __future__ import annotations

import contextlib
import itertools
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.sources import ignoring
from llmforge.data.sources.kinds import (
    archive_kind,
    harmless_name,
    is_minified,
    kind_of,
    reason_by_folders,
    tree_of_code,
)
from llmforge.data.sources.streams import (
    ALWAYS_UNPACKED,
    BROKEN,
    CHUNK,
    MOST_RATIO,
    TooLarge,
    broken,
    reason_of,
    unpacked,
)

#: A member that is larger unpacked is left out.
MEMBER_BYTES = 2 << 30
#: Below this size a member may be squeezed as much as it likes.
_SMALL = 1 << 20
#: What stands between an archive's name and a member's.
BETWEEN = "!/"

Member = tuple[str, str, BinaryIO, int]


def members(file: BinaryIO, name: str, size: int, source: Source, account: Account) -> Iterator[Member]:
    """Name, kind, stream and packed size of each member that the source takes; the stream is good until the next.

    The members of a zip come sorted by name, those of a tar as they stand in it; with `source.max_files` no more than
    so many. What is left out is counted under ``archive!/member``.

    Args:
        file: The archive, at its start.
        size: Its bytes.

    Raises:
        OSError, TooLarge and the like (`streams.BROKEN`): The archive is broken, or out of proportion.
    """
    walk = _zip_members if archive_kind(name) == "zip" else _tar_members
    yield from itertools.islice(walk(file, name, size, source, account), source.max_files)


def _wanted(member: str, full: str, rules: ignoring.IgnoreRules, source: Source, account: Account) -> str | None:
    """The kind of a member by its name; None, and counted, if it is left out."""
    reason = reason_by_folders(member, source)
    kind = kind_of(member, source)
    if reason is None and rules.name_any(member):
        reason = ignoring.REASON
    if reason is None and archive_kind(member):
        reason = "archive within an archive"
    elif reason is None and kind is None:
        reason = "another suffix"
    elif reason is None and kind is not None and is_minified(member, kind, source):
        reason = "minified by its name"
    if reason:
        account.skip(reason, full)
    return kind if reason is None else None


def _zip_members(file: BinaryIO, name: str, size: int, source: Source, account: Account) -> Iterator[Member]:
    left = max(MOST_RATIO * size, ALWAYS_UNPACKED)
    try:
        opened = zipfile.ZipFile(file)
    except (ValueError, RuntimeError) as error:  # names that are no UTF-8, a version of the format yet to come
        raise zipfile.BadZipFile(str(error)) from error
    with opened as archive:
        infos = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
        rules = ignoring.IgnoreRules()
        for info in infos:
            folder, _, last = harmless_name(info.filename).rpartition("/")
            if last == ignoring.NAME and _ignoring(source) and not _zip_fault(info):
                with contextlib.suppress(*BROKEN), _open(archive, info) as stream:
                    rules.add(folder, stream.read(ignoring.MOST_BYTES))
        for info in infos:
            member = harmless_name(info.filename)
            full = f"{name}{BETWEEN}{member}"
            kind = _wanted(member, full, rules, source, account)
            if kind is None:
                continue
            if fault := _zip_fault(info):
                broken(source, account, fault, full)
                continue
            left -= info.file_size
            if left < 0:
                raise TooLarge(f"unpacks to more than {MOST_RATIO} times its size")
            try:
                stream = _open(archive, info)
            except BROKEN as error:
                broken(source, account, reason_of(error), full)
                continue
            with stream:
                yield full, kind, unpacked(cast(BinaryIO, stream), member, info.file_size), info.file_size


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(info)
    except (ValueError, RuntimeError) as error:  # another name than in the directory; a method that zipfile does not know
        raise zipfile.BadZipFile(str(error)) from error


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 1:
        return "member with a password"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "no regular file"
    if info.file_size > MEMBER_BYTES:
        return f"member larger than {MEMBER_BYTES >> 30} GB"
    if info.file_size > max(_SMALL, MOST_RATIO * info.compress_size):
        return f"unpacks to more than {MOST_RATIO} times its size"
    return None


def _tar_members(file: BinaryIO, name: str, size: int, source: Source, account: Account) -> Iterator[Member]:
    rules = ignoring.IgnoreRules()
    if _ignoring(source):  # a rule may stand behind what it names, so they are gathered first
        for info, archive in _tar_entries(file, name, size):
            folder, _, last = harmless_name(info.name).rpartition("/")
            if last == ignoring.NAME and info.isreg():
                stream = archive.extractfile(info)
                if stream is not None:
                    rules.add(folder, stream.read(ignoring.MOST_BYTES))
        file.seek(0)
    for info, archive in _tar_entries(file, name, size):
        if info.isdir():
            continue
        member = harmless_name(info.name)
        full = f"{name}{BETWEEN}{member}"
        kind = _wanted(member, full, rules, source, account)
        if kind is None:
            continue
        if not info.isreg() or info.issparse():
            account.skip("no regular file", full)
        elif info.size > MEMBER_BYTES:
            broken(source, account, f"member larger than {MEMBER_BYTES >> 30} GB", full)
        elif (stream := archive.extractfile(info)) is not None:
            yield full, kind, unpacked(cast(BinaryIO, stream), member, info.size), info.size


def _tar_entries(file: BinaryIO, name: str, size: int) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    with tarfile.open(fileobj=unpacked(file, name, size), mode="r|", bufsize=CHUNK) as archive:
        for info in archive:
            yield info, archive
            # It would keep all of them, though a stream cannot go back.
            archive.members = []  # type: ignore[attr-defined]


def _ignoring(source: Source) -> bool:
    return source.gitignore and tree_of_code(source)
