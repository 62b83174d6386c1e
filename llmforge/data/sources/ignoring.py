"""What ``.gitignore`` files name, by git's own rules: the deepest file that says anything decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

NAME = ".gitignore"
REASON = f"named by {NAME}"
#: Nobody writes more by hand, and reading it costs time for every file.
MOST_BYTES = 1 << 20


class IgnoreRules:
    """The rules of a tree, given folder by folder as they are met."""

    def __init__(self) -> None:
        self._specs: dict[str, GitIgnoreSpec] = {}
        self._folders: dict[str, bool] = {}

    def add(self, folder: str, content: bytes) -> None:
        """Take over the ``.gitignore`` of `folder`, a path within the tree without a slash at its end; empty is the root."""
        from pathspec import GitIgnoreSpec

        lines = []
        for line in content[:MOST_BYTES].decode("utf-8-sig", "replace").splitlines():
            try:
                GitIgnoreSpec.from_lines([line])
            except ValueError:  # git passes over what is no pattern as well
                continue
            lines.append(line)
        self._specs[folder] = GitIgnoreSpec.from_lines(lines)

    def name(self, path: str, is_folder: bool = False) -> bool:
        """Whether some rule names `path` itself; whether one names a folder that it is in is not asked."""
        if not self._specs:
            return False
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            spec = self._specs.get(folder)
            if spec is not None:
                rest = path[len(folder) + 1 :] if folder else path
                include = spec.check_file(f"{rest}/" if is_folder else rest).include
                if include is not None:
                    return include
        return False

    def name_any(self, path: str) -> bool:
        """Whether some rule names `path` or a folder that it is in."""
        if not self._specs:
            return False
        folder = path.rpartition("/")[0]
        return self._within(folder) or self.name(path)

    def _within(self, folder: str) -> bool:
        if not folder:
            return False
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = self._within(folder.rpartition("/")[0]) or self.name(folder, is_folder=True)
        return known
