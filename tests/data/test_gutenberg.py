"""Header, licence and transcriber's notes go from a book; no word of the book does."""

from __future__ import annotations

import pytest

from llmforge.data.gutenberg import removals, strip_gutenberg

BOOK = "EMMA\n\nA NOVEL\n\n\n\nCHAPTER I\n\n\nEmma Woodhouse, handsome, clever.\n\n* * * * *\n\n" + "\n\n".join(
    f"Paragraph {number} of Project\nGutenberg-free words, produced by hand." for number in range(60)
)
HEAD = "The Project Gutenberg EBook of Emma, by Jane Austen\n\nThis eBook is for the use of anyone\n\nTitle: Emma\n\n"
START = "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***"
END = "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***"
LICENCE = (
    "\n\nUpdated editions will replace the previous one.\n\n*** START: FULL LICENSE ***\n\nSection 1. Project Gutenberg-tm\n"
)


def test_the_book_is_what_is_left():
    found, removed = strip_gutenberg(f"{HEAD}{START}\n\n\n\n{BOOK}\n\n\n\n{END}{LICENCE}")
    assert found == BOOK + "\n"
    assert removed == ["header", "licence"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("*** START OF THIS PROJECT GUTENBERG EBOOK EMMA ***", "*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***"),
        ("***START OF THE PROJECT GUTENBERG EBOOK EMMA***", "***END OF THE PROJECT GUTENBERG EBOOK EMMA***"),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK EMMA,\nA VERY LONG\nTITLE ***",
            "*** END OF THE PROJECT GUTENBERG EBOOK EMMA,\nA ***",
        ),
        ("*** START OF THE PROJECT GUTENBERG EBOOK, EMMA ***", "*** END OF THE PROJECT GUTENBERG EBOOK, EMMA ***"),
        ("*** START OF THE PROJECT GUTENBERG ETEXT EMMA ***", "*** END OF THE PROJECT GUTENBERG ETEXT EMMA ***"),
        (
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
            "End of the Project Gutenberg Etext of Emma, by Jane Austen",
        ),
        ("*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*", "End of Project Gutenberg's Emma, by Jane Austen"),
        (
            f"{START}\n\nmore of it\n\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10.04.01*END*",
            "The End of the Project Gutenberg EBook of Emma",
        ),
        (START, f"End of the Project Gutenberg EBook of Emma, by\nJane Austen\n\n{END}"),
        (START, f"End of Project Gutenberg's Emma, by Jane Austen\n\n{END}"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_marker_styles(start: str, end: str, newline: str):
    tail = LICENCE if "***" in end else "\n"
    text = f"{HEAD}{start}\n\n{BOOK}\n\n{end}{tail}".replace("\n", newline)
    assert strip_gutenberg(text) == (f"{BOOK}\n".replace("\n", newline).rstrip("\r\n") + newline, ["header", "licence"])


@pytest.mark.parametrize(
    "credit",
    [
        "Produced by Anonymous Volunteers",
        "Produced by A. Person and the Online\nDistributed Proofreading Team at https://www.pgdp.net",
        "E-text prepared by A. Person\nand B. Person",
        "This etext was prepared by A. Person, Somewhere",
        "Transcribed from the 1906 edition by A. Person",
        "Note: Project Gutenberg also has an HTML version of this\n      file which includes the original illustrations.",
        "Produced by A\n\nNote: Images of the original pages are available through\n      the archive",
    ],
)
def test_credits_before_the_title_go(credit: str):
    found, removed = strip_gutenberg(f"{HEAD}{START}\n\n{credit}\n\n\n{BOOK}\n\n{END}{LICENCE}")
    assert (found, removed) == (BOOK + "\n", ["header", "licence"])


NOTES = [
    "[Transcriber's Note: The spelling was kept.]",
    "[Transcriber’s Notes:\n\nThe spelling [sic] was kept.\n\nSo was the rest.]",
    "+---------------------+\n| Transcriber's Note: |\n|                     |\n| Spelling kept.      |\n+---------------------+",
    "--------------------\n\nTRANSCRIBER'S NOTE\n\nThe spelling was kept.\n\n--------------------",
]


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_notes_with_borders_go_wherever_they_stand(note: str, place: str):
    first, _, second = BOOK.partition("\n\n\n\n")
    parts = {"head": (note, first, second), "middle": (first, note, second), "tail": (first, second, note)}[place]
    found, removed = strip_gutenberg(f"{HEAD}{START}\n\n" + "\n\n\n\n".join(parts) + f"\n\n{END}{LICENCE}")
    assert removed == ["header", "licence", "transcriber's notes"]
    assert found.split() == BOOK.split()


@pytest.mark.parametrize(
    "title", ["Transcriber's Note:", "TRANSCRIBER'S NOTES", "Transcriber’s Note: it was", "Transcribers' Notes"]
)
def test_notes_without_borders_go_from_head_and_tail(title: str):
    note = f"{title}\n\nThe spelling was kept.\n\nPage 3: foo is bar."
    for book in (f"{note}\n\n\n\n{BOOK}", f"{BOOK}\n\n\n\n{note}"):
        found, removed = strip_gutenberg(f"{HEAD}{START}\n\n{book}\n\n{END}{LICENCE}")
        assert (found, removed) == (BOOK + "\n", ["header", "licence", "transcriber's notes"])


def test_a_credit_and_a_note_in_turn():
    found, _ = strip_gutenberg(
        f"{HEAD}{START}\n\nProduced by A\n\n[Transcriber's Note: x]\n\nE-text prepared by B\n\n\n{BOOK}\n\n{END}\n"
    )
    assert found == BOOK + "\n"


@pytest.mark.parametrize(
    "words",
    [
        "He wrote a transcriber's note: it was lost.",
        "Transcriber's notes are dull, he said.",
        "Words [Transcriber's Note: within a sentence] go on.",
        "[Transcriber's Note: closed] and words behind it",
        "[Transcriber's Note: never closed",
        "Transcriber's Note:\n\nIt was kept.\n\nFOOTNOTES:\n\n[1] A word of the author.",
        "Transcriber's Note:\n\nIt was kept.\n\nCHAPTER II\n\nMore of the book.",
        "Produced by the company of players, it failed.",
        "*** A row of stars ***",
        "the end of the Project was near",
        "End of Project Gutenberg's Volume I\n\nVolume II",
        "Transcriber's Note:\n\nIt was kept.\n" + "\nPage 3: foo is bar." * 80 + "\n\nINDEX\n\nEmma, 3",
    ],
)
def test_words_of_the_book_stay(words: str):
    book = f"{BOOK}\n\n{words}\n\n" + "Last words.\n\n" * 3 + "The last."
    assert strip_gutenberg(f"{HEAD}{START}\n\n{book}\n\n{END}{LICENCE}") == (book + "\n", ["header", "licence"])


def test_a_note_at_the_head_whose_end_is_not_sure_stays():
    book = "Transcriber's Note:\n\nIt was kept.\n\nEMMA\n\nCHAPTER I\n\n" + BOOK
    assert strip_gutenberg(f"{HEAD}{START}\n\n{book}\n\n{END}\n")[0] == book + "\n"


@pytest.mark.parametrize(
    "text", ["", "Just words.\n", "[Transcriber's Note: x]\n\nProduced by A\n\nWords.\n", f"{BOOK}\r\n", "\n\n\n"]
)
def test_without_markers_a_text_is_left_alone(text: str):
    assert strip_gutenberg(text) == (text, [])
    assert removals([]) == ["no Gutenberg markers found"]


def test_one_marker_alone():
    assert strip_gutenberg(f"{HEAD}{START}\n\n{BOOK}") == (BOOK + "\n", ["header"])
    assert strip_gutenberg(f"{BOOK}\n\n{END}{LICENCE}") == (BOOK + "\n", ["licence"])


def test_markers_far_inside_belong_to_a_collection():
    """Its books are all kept, with what stands between them."""
    long = "\n\n".join([BOOK] * 12)
    inner = f"{long}\n\n{END}\n\nlicence\n\n{START}\n\n{long}"
    assert strip_gutenberg(f"{HEAD}{START}\n\n{inner}\n\n{END}{LICENCE}")[0] == inner + "\n"
    for marker in (START, END):
        text = f"{long}\n\n{marker}\n\n{long}"
        assert strip_gutenberg(text) == (text, [])
    assert strip_gutenberg(f"{HEAD}{START}\n\nOne.\n\n{START}\n\nTwo.\n")[0] == f"One.\n\n{START}\n\nTwo.\n"


def test_nothing_but_a_header():
    assert strip_gutenberg(f"{HEAD}{START}\n\n\n{END}\n") == ("", ["header", "licence"])
