"""A code document that begins with its own path, so that a model learns which file it is in."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_STYLES = {
    "// ": """.c .cc .cpp .cs .cu .cuh .cxx .dart .fs .go .gradle .groovy .h .hh .hpp .java .js .jsx .kt .kts .m .mjs .mm .mod
        .php .proto .rs .scala .scss .sol .swift .sv .thrift .ts .tsx .v .zig Jenkinsfile""",
    "# ": """.awk .bash .bzl .cmake .ex .exs .fish .graphql .jl .mk .nim .pl .pm .properties .ps1 .py .pyi .r .rb .sh .tcl .tf
        .tfvars .toml .yaml .yml .zsh BUILD CMakeLists.txt Containerfile Dockerfile GNUmakefile Gemfile Makefile Rakefile
        Vagrantfile WORKSPACE makefile""",
    "-- ": ".adb .ads .elm .hs .lua .purs .sql .vhd",
    ";; ": ".clj .el .lisp .rkt .scm",
    "% ": ".erl .hrl .sty .tex",
    "! ": ".f03 .f08 .f90 .f95",
    "' ": ".bas .vb",
    "/* */": ".css",
    "(* *)": ".ml .mli",
    "<!-- -->": ".htm .html .svg .vue .xml",
}
#: Suffix, or whole name of a file that goes without one → how a comment begins and, behind a space, how it ends.
COMMENTS = {name: style for style, names in _STYLES.items() for name in names.split()}

# Lines that mean something only where they stand: an interpreter, an encoding, an opening tag, a parser directive.
_FIRST = re.compile(
    r"#!(?!\[).*|#.*?coding[:=][ \t]*[-\w.]+.*|<\?(?:php|xml)\b.*|<!doctype\b.*|#[ \t]*(?:syntax|escape|check)[ \t]*=.*",
    re.IGNORECASE,
)


def with_path(text: str, name: str) -> str:
    """`text` with a first comment that holds `name`, in the language's style.

    The comment stands after an interpreter line, an encoding line or an opening tag. A text that has it already, and a
    language without a known style, are given back as they are.
    """
    path = PurePosixPath(name)
    begin, _, end = (COMMENTS.get(path.suffix.lower()) or COMMENTS.get(path.name) or "").partition(" ")
    shown = "".join(character if character.isprintable() else "\ufffd" for character in name)
    if not begin or (end and end in shown):
        return text
    if path.suffix.lower() == ".php" and not text.startswith("<?php"):
        return text  # what stands before the tag is output
    header = f"{begin} {shown} {end}".rstrip() + "\n"
    place = 0
    for _ in range(2):
        stop = text.find("\n", place)
        stop = len(text) if stop < 0 else stop
        if not _FIRST.fullmatch(text, place, stop):
            break
        place = min(stop + 1, len(text))
    if text.startswith(header, place):
        return text
    before = text[:place]
    return f"{before}{'' if before.endswith(chr(10)) or not before else chr(10)}{header}{text[place:]}"
