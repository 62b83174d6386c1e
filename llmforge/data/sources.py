"""Documents out of files, with an account of everything that was left out."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmforge.configs.data import DataArguments
from llmforge.errors import DataError

#: Suffixes that `--format code` takes.
CODE_SUFFIXES = frozenset(
    ".bash .bzl .c .cc .clj .cpp .cs .css .cu .cuh .cxx .dart .el .erl .ex .exs .f90 .fs .go .gradle .groovy .h .hh .hpp "
    ".hs .html .java .jl .js .jsx .kt .kts .lisp .lua .m .mjs .ml .mli .mm .nim .php .pl .pm .proto .ps1 .py .pyi .r .rb "
    ".rs .scala .scm .scss .sh .sol .sql .swift .tcl .tf .thrift .ts .tsx .vb .vhd .vue .zig".split()
)
TEXT_SUFFIXES = frozenset({".txt", ".md"})
JSONL_SUFFIXES = frozenset({".jsonl"})

#: A corpus of fewer documents than this is cut into sections first, or its splits would be empty.
FEW_DOCUMENTS = 50
#: About this many characters make a section.
SECTION_LENGTH = 8 * 1024
#: A NUL byte among the first bytes of a file means that it is not text.
_BINARY_PROBE = 8 * 1024
_BLANK_LINES = re.compile(r"(?<=\n)(?:[ \t]*\r?\n)+")


@dataclass(frozen=True)
class Document:
    """The unit of a corpus: never cut by a split, and what a packed row is traced back to.

    Attributes:
        name: Path within the corpus, with ``:line`` or ``#section`` where a file holds several.
        text: Its text, as it stood in the file.
    """

    name: str
    text: str


@dataclass
class SourceReport:
    """What was read and what was not.

    Attributes:
        files: Files that gave documents.
        bytes: Bytes of those files.
        skipped: Reason → how many files or lines were left out for it.
        examples: Reason → the first such file or line.
        replaced: Files, or lines, in which undecodable bytes were replaced.
        sections: Whether few documents were cut into sections.
    """

    files: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    replaced: int = 0
    sections: bool = False

    def skip(self, reason: str, example: str) -> None:
        """Count one thing left out."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, example)

    def lines(self) -> list[str]:
        """The report for people, a line a fact; empty where everything was read."""
        lines = [
            f"left out {count:,} {'entry' if count == 1 else 'entries'}: {reason} (e.g. {self.examples[reason]})"
            for reason, count in sorted(self.skipped.items())
        ]
        if self.replaced:
            lines.append(f"replaced undecodable bytes in {self.replaced:,} files")
        if self.sections:
            lines.append(
                f"fewer than {FEW_DOCUMENTS} documents: cut at blank lines into sections of about "
                f"{SECTION_LENGTH // 1024} KB, which count as documents"
            )
        return lines


def read_corpus(args: DataArguments) -> tuple[list[Document], SourceReport]:
    """All documents of `args.corpus`, in an order that depends on their paths alone.

    Raises:
        DataError: No such file or folder, nothing in it that the format takes, or only empty text.
    """
    root = check_corpus(args)
    report = SourceReport()
    documents: list[Document] = []
    for path in _walk(root, report):
        kind = _kind(path, args)
        if kind is None:
            report.skip("another suffix", _relative(path, root))
            continue
        try:
            raw = path.read_bytes()
        except OSError as error:
            report.skip(f"unreadable ({error.strerror})", _relative(path, root))
            continue
        if b"\0" in raw[:_BINARY_PROBE]:
            report.skip("binary", _relative(path, root))
            continue
        report.files += 1
        report.bytes += len(raw)
        documents.extend(_documents_of(raw, _relative(path, root), kind, args, report))
    if not documents:
        raise DataError(
            f"--corpus {root}: {_nothing_found(args, report)}", "Give a folder with text, or other --suffixes or --format."
        )
    if len(documents) < FEW_DOCUMENTS and args.segment == "file":
        cut = [section for document in documents for section in cut_sections(document)]
        report.sections = len(cut) > len(documents)
        documents = cut
    return documents, report


def check_corpus(args: DataArguments) -> Path:
    """The corpus's path, after a look that costs nothing.

    Raises:
        DataError: There is no such file or folder, or the folder is empty or cannot be read.
    """
    if args.corpus is None:
        raise DataError("There is no corpus.", "Give --corpus FOLDER, or --dataset_dir with a prepared one.")
    root = Path(args.corpus).expanduser()
    if not root.exists():
        raise DataError(f"--corpus {root}: no such file or folder.", "Check the path.")
    try:
        if root.is_dir() and not any(root.iterdir()):
            raise DataError(f"--corpus {root} is empty.", "Give a folder with text in it.")
    except OSError as error:
        raise DataError(f"--corpus {root} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return root


def _walk(root: Path, report: SourceReport) -> Iterator[Path]:
    """Regular files under `root`, sorted; hidden folders and links out of the tree are left out."""
    if root.is_file():
        yield root
        return
    resolved = root.resolve()

    def unreadable(error: OSError) -> None:
        report.skip(f"unreadable folder ({error.strerror})", _relative(Path(error.filename), root))

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (Path(folder) / name).is_symlink():  # os.walk does not go there
                report.skip("link to a folder", _relative(Path(folder) / name, root))
        for name in sorted(names):
            path = Path(folder) / name
            if not os.path.isfile(path):  # a FIFO, a socket, a link that is broken or a loop
                report.skip("no regular file", _relative(path, root))
            elif path.is_symlink() and not path.resolve().is_relative_to(resolved):
                report.skip("link out of the corpus", _relative(path, root))
            else:
                yield path


def _relative(path: Path, root: Path) -> str:
    return _whole_characters(path.name if path == root else path.relative_to(root).as_posix())


def _whole_characters(text: str) -> str:
    """`text` with halves of surrogate pairs replaced: JSON and file names can hold them, UTF-8 cannot."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _kind(path: Path, args: DataArguments) -> str | None:
    """How to read `path`: code, text or jsonl; None leaves it out."""
    kinds = {"code": CODE_SUFFIXES, "text": TEXT_SUFFIXES, "jsonl": JSONL_SUFFIXES}
    by_suffix = next((kind for kind, known in kinds.items() if path.suffix.lower() in known), None)
    # A file or a suffix that was named is taken as what the user says it is.
    is_corpus = path == Path(args.corpus or "").expanduser()
    if args.suffixes and not is_corpus and not path.name.lower().endswith(tuple(suffix.lower() for suffix in args.suffixes)):
        return None
    named = is_corpus or bool(args.suffixes)
    if args.format == "auto":
        return by_suffix or ("text" if named else None)
    return args.format if named or by_suffix == args.format else None


def _documents_of(raw: bytes, name: str, kind: str, args: DataArguments, report: SourceReport) -> Iterator[Document]:
    text, replaced = _decode(raw)
    report.replaced += replaced
    if kind == "jsonl":
        pieces = list(_json_lines(text, name, args.text_field, report))
    elif kind == "text" and args.segment == "paragraph":
        pieces = [Document(f"{name}#{i}", block) for i, block in enumerate(_BLANK_LINES.split(text)) if block.strip()]
    else:
        pieces = [Document(name, text)]
    for document in pieces:
        if document.text.strip():
            yield document
        else:
            report.skip("empty", document.name)


def _decode(raw: bytes) -> tuple[str, bool]:
    """The text of `raw`, and whether undecodable bytes were replaced; a byte-order mark is dropped."""
    try:
        return raw.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8-sig", errors="replace"), True


def _json_lines(text: str, name: str, text_field: str, report: SourceReport) -> Iterator[Document]:
    # Only \n ends a JSONL line; splitlines() would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the second: nested deeper than Python recurses
            report.skip("line that is no JSON", where)
            continue
        field_value = value.get(text_field) if isinstance(value, dict) else None
        if isinstance(field_value, str):
            whole = _whole_characters(field_value)
            report.replaced += whole != field_value
            yield Document(where, whole)
        else:
            report.skip(f"line without a text field {text_field!r}", where)


def _nothing_found(args: DataArguments, report: SourceReport) -> str:
    wanted = " ".join(args.suffixes) or {"auto": "a known suffix"}.get(args.format, f"format {args.format}")
    if not report.skipped:
        return f"no file of {wanted}."
    seen = "; ".join(f"{count} {reason}, e.g. {report.examples[reason]}" for reason, count in report.skipped.items())
    return f"no file of {wanted} with text in it ({seen})."


def cut_sections(document: Document, length: int = SECTION_LENGTH) -> list[Document]:
    """Cut a long document at blank lines into sections of about `length` characters.

    Nothing is lost: the sections joined are the document. A block longer than `length` is kept whole.
    """
    if len(document.text) <= length:
        return [document]
    cuts = [match.end() for match in _BLANK_LINES.finditer(document.text)]
    sections, start = [], 0
    for here, following in itertools.pairwise([*cuts, len(document.text)]):
        if following - start > length and here > start:
            sections.append(document.text[start:here])
            start = here
    if not sections:
        return [document]
    sections.append(document.text[start:])
    return [Document(f"{document.name}#{i}", text) for i, text in enumerate(sections) if text.strip()]
