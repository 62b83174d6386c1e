"""A whole corpus at once: the look at it beforehand, and all its documents where they are few enough for memory."""

from __future__ import annotations

from llmforge.configs.data import DataArguments
from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.sources.cutting import FEW_DOCUMENTS, SECTION_LENGTH, cut_sections
from llmforge.data.sources.finding import check_path
from llmforge.data.sources.ignoring import REASON
from llmforge.data.sources.units import find_units, read_unit
from llmforge.errors import DataError

#: What an account says of documents that were cut because there are few.
FEW = f"fewer than {FEW_DOCUMENTS} documents: cut at blank lines into sections of about {SECTION_LENGTH // 1024} KB"


def check_corpus(args: DataArguments) -> None:
    """A look at every source that costs nothing, before anything heavy is imported.

    URLs, hub ids, book ids and functions pass unseen, but a protocol whose package is missing does not.

    Raises:
        DataError: There is no source, or no such file or folder, or it is empty or cannot be read.
    """
    sources = args.sources()
    if not sources:
        raise DataError("There is no corpus.", "Give --corpus FOLDER, or --dataset_dir with a prepared one.")
    for source in sources:
        check_path(source, "--corpus" if args.corpus is not None else "--source path:")


def read_corpus(args: DataArguments) -> tuple[list[Document], Account]:
    """All documents of a small corpus as they stand, uncleaned, in an order that depends on their names alone.

    Raises:
        DataError: A source cannot be used, or has nothing in it that its format takes.
    """
    check_corpus(args)
    account = Account()
    documents: list[Document] = []
    for source in args.sources():
        own = Account()
        before = len(documents)
        for unit in find_units(source, own):
            documents.extend(read_unit(unit, own))
        if len(documents) == before:
            raise nothing_found(source, own)
        account.add(own)
    if len(documents) < FEW_DOCUMENTS and all(source.segment == "file" for source in args.sources()):
        cut = [section for document in documents for section in cut_sections(document)]
        if len(cut) > len(documents):
            account.changed[FEW] += len(documents)
        documents = cut
    return documents, account


def nothing_found(source: Source, account: Account) -> DataError:
    """The error for a source that gave no document, with what was seen instead."""
    wanted = " ".join(source.suffixes) or {"auto": "a known suffix"}.get(source.format, f"format {source.format}")
    seen = "; ".join(f"{count} {reason}, e.g. {account.examples[reason][0]}" for reason, count in account.skipped.items())
    found = f"no file of {wanted} with text in it ({seen})." if seen else f"no file of {wanted}."
    remedy = "Give a folder with text, or other --suffixes or --format."
    if REASON in account.skipped:
        remedy = "Give --no-gitignore to take what .gitignore names, or another folder, --suffixes or --format."
    return DataError(f"{source.name}: {found}", remedy)
