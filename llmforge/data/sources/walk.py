"""The regular files of a local folder, in an order that depends on their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.sources.ignoring import MOST_BYTES, NAME, REASON, IgnoreRules
from llmforge.data.sources.kinds import is_hidden, is_vendored, tree_of_code, whole_characters
from llmforge.data.sources.streams import broken

_MAGIC = re.compile(r"[*?\[]")


def has_magic(path: str) -> bool:
    """Whether `path` has wildcards in it."""
    return _MAGIC.search(path) is not None


def fixed_part(pattern: str) -> tuple[str, str]:
    """The folder that a glob starts from, and the rest of it."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


def names_its_files(pattern: str) -> bool:
    """Whether a glob says how names end, as ``*.log`` does and ``**`` does not."""
    return not pattern.endswith("*")


def matcher(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``**`` is any number of folders, ``*`` stays within one."""
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern))


def depth_of(pattern: str) -> int | None:
    """Folders that a glob can go down; None for any number."""
    parts = pattern.split("/")
    return None if "**" in parts else len(parts) - 1


def walk(root: str, source: Source, account: Account, depth: int | None = None) -> Iterator[tuple[str, str]]:
    """Name within `root` and path of each regular file, sorted by name.

    Hidden folders are not entered. Vendored folders, what ``.gitignore`` files name (both in trees of code only), links
    to folders, links that leave the tree, and what is neither file nor folder is left out and counted.

    Raises:
        DataError: With `source.strict`, a folder that cannot be read.
    """
    resolved = Path(root).resolve()
    rules = IgnoreRules()
    ignoring = source.gitignore and tree_of_code(source)
    pending: list[tuple[str, str, bool]] = [("", root, True)]
    while pending:
        name, path, is_folder = pending.pop()
        if not is_folder:
            yield name, path
            continue
        try:
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            broken(source, account, f"unreadable folder ({error.strerror})", whole_characters(name))
            continue
        if ignoring and any(entry.name == NAME and entry.is_file(follow_symlinks=False) for entry in entries):
            _add_rules(rules, name, os.path.join(path, NAME))
        prefix = f"{name}/" if name else ""
        within = depth is None or name.count("/") + bool(name) < depth
        kept = []
        for entry in entries:
            child = prefix + entry.name
            folder = entry.is_dir(follow_symlinks=False)
            if folder and (is_hidden(entry.name) or not within):
                continue
            reason = _reason(entry, folder, resolved, source) or (REASON if rules.name(child, folder) else None)
            if reason is None:
                kept.append((child, entry.path, folder))
            else:
                account.skip(reason, whole_characters(child))
        # With its slash a folder stands where its files do: the order is that of the whole names.
        pending += sorted(kept, key=lambda item: item[0] + "/" * item[2], reverse=True)


def _reason(entry: os.DirEntry[str], folder: bool, root: Path, source: Source) -> str | None:
    if folder:
        return "vendored folder" if is_vendored(entry.name, source) else None
    if not entry.is_symlink():
        return None if entry.is_file() else "no regular file"
    if os.path.isdir(entry.path):
        return "link to a folder"
    if not os.path.isfile(entry.path):  # a broken link, or one in a loop, at which DirEntry would raise
        return "no regular file"
    return None if Path(entry.path).resolve().is_relative_to(root) else "link out of the corpus"


def _add_rules(rules: IgnoreRules, folder: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            rules.add(folder, file.read(MOST_BYTES))
    except OSError:  # the file that cannot be read is counted nowhere: it is no text of the corpus
        return
