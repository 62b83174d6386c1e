"""What a file is, by its name alone."""

from __future__ import annotations

from llmforge.configs.source import Source

#: Suffixes that `--format code` takes.
CODE_SUFFIXES = frozenset(
    ".bash .bzl .c .cc .clj .cpp .cs .css .cu .cuh .cxx .dart .el .erl .ex .exs .f90 .fs .go .gradle .groovy .h .hh .hpp "
    ".hs .html .java .jl .js .jsx .kt .kts .lisp .lua .m .mjs .ml .mli .mm .nim .php .pl .pm .proto .ps1 .py .pyi .r .rb "
    ".rs .scala .scm .scss .sh .sol .sql .swift .tcl .tf .thrift .ts .tsx .vb .vhd .vue .zig".split()
)
TEXT_SUFFIXES = frozenset({".txt", ".text", ".rst"})
_RECORD_SUFFIXES = {
    "markdown": (".md", ".markdown", ".mdx"),
    "json": (".json",),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "npz": (".npz", ".npy"),
}
_KINDS = {
    **dict.fromkeys(CODE_SUFFIXES, "code"),
    **dict.fromkeys(TEXT_SUFFIXES, "text"),
    **{suffix: kind for kind, suffixes in _RECORD_SUFFIXES.items() for suffix in suffixes},
}
#: Kinds that are bytes of text, where a NUL says that a file is something else after all.
TEXTUAL = frozenset({"text", "code", "markdown", "gutenberg", "json", "jsonl", "csv"})
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_TAR_SHORTHANDS = (".tgz", ".tbz2", ".txz", ".tzst")
#: Folders that hold other people's code: left out of formats code and auto unless `keep_generated`.
VENDORED_FOLDERS = frozenset(
    "vendor _vendor vendored third_party third-party thirdparty 3rdparty node_modules bower_components jspm_packages "
    "site-packages dist-packages Pods Carthage Godeps __pycache__".split()
)
_MINIFIED = tuple(f"{mark}{suffix}" for mark in (".min", "-min", ".bundle") for suffix in (".js", ".mjs", ".css", ".html"))
#: The folder in which macOS's archives keep what is no part of the content.
_RESOURCE_FORK = "__MACOSX"


def compression_of(name: str) -> str:
    """The suffix of `name` that says how it is compressed; empty if it is not. ``.tgz`` and its kin count as well."""
    lower = name.lower()
    if not lower.endswith((*COMPRESSIONS, *_TAR_SHORTHANDS)):
        return ""
    for suffix, shorthand in zip(COMPRESSIONS, _TAR_SHORTHANDS, strict=True):
        if lower.endswith((suffix, shorthand)):
            return suffix
    return ""


def without_compression(name: str) -> str:
    """`name` as it would be called unpacked."""
    lower = name.lower()
    return name[: -len(lower.rpartition(".")[2]) - 1] if lower.endswith(COMPRESSIONS) else name


def archive_kind(name: str) -> str | None:
    """``zip`` or ``tar``, the second compressed or not; None for what is no archive."""
    lower = name.lower()
    if lower.endswith(".zip"):
        return "zip"
    return "tar" if without_compression(lower).endswith(".tar") or lower.endswith(_TAR_SHORTHANDS) else None


def kind_of(name: str, source: Source, named: bool = False) -> str | None:
    """How the file `name` is read: ``code``, ``text``, ``jsonl``, …, ``zip`` or ``tar``; None leaves it out.

    Args:
        named: The user gave this very file: it is taken as what `source.format` says, whatever its suffix. So is a
            file with one of `source.suffixes`.
    """
    lower = name.lower()
    plain = without_compression(lower)
    archive = archive_kind(name)
    if archive is not None and (named or not tree_of_code(source)):
        return archive
    if source.suffixes and not named:
        wanted = tuple(suffix.lower() for suffix in source.suffixes)
        if not lower.endswith(wanted) and not plain.endswith(wanted):
            return None
        named = True
    if archive is not None:
        return archive if named else None
    _, dot, suffix = plain.rpartition(".")
    by_suffix = _KINDS.get(dot + suffix) if "/" not in suffix else None
    if source.format == "auto":
        # A lone array is a file of ids only where the source says so.
        by_suffix = None if plain.endswith(".npy") else by_suffix
        return by_suffix or ("text" if named else None)
    own = "text" if source.format == "gutenberg" else source.format
    return source.format if named or by_suffix == own else None


def tree_of_code(source: Source) -> bool:
    """Whether the source may be a tree of code, where archives are mostly test data and some folders other people's."""
    return source.format in ("auto", "code")


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name is not entered, and not told of either."""
    return folder.startswith(".") or folder == _RESOURCE_FORK


def is_vendored(folder: str, source: Source) -> bool:
    """Whether a folder of this name holds other people's code, which the source leaves out."""
    return folder in VENDORED_FOLDERS and tree_of_code(source) and not source.keep_generated


def is_minified(name: str, kind: str, source: Source) -> bool:
    """Whether the name says that this is code that a program squeezed, which the source leaves out."""
    return kind == "code" and not source.keep_generated and without_compression(name.lower()).endswith(_MINIFIED)


def reason_by_folders(name: str, source: Source) -> str | None:
    """Why a member of an archive or of a bucket is left out for the folders it is in; empty if without a word."""
    folders = name.split("/")[:-1]
    if any(is_hidden(folder) for folder in folders):
        return ""
    return "in a vendored folder" if any(is_vendored(folder, source) for folder in folders) else None


def whole_characters(text: str) -> str:
    """`text` with halves of surrogate pairs replaced: file names can hold them, UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def harmless_name(name: str) -> str:
    """A name from an archive or a bucket as a relative path that stays where it is put."""
    parts = whole_characters(name).replace("\\", "/").replace("\0", "").split("/")
    return "/".join("__" if part == ".." else part for part in parts if part not in ("", ".")) or "__"
