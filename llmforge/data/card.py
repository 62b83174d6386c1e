"""What was done with a corpus, in figures: the data card, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmforge.configs.source import without_secrets
from llmforge.data.corpus import Corpus
from llmforge.data.documents import Account, mended_line
from llmforge.data.encode import TokenizedCorpus

#: Shares of the documents that are shorter than the lengths a card lists.
PERCENTILES = (5, 25, 50, 75, 95, 99)


def vocabulary_line(reached: int, requested: int | None) -> str:
    """How large the vocabulary came out, and why it fell short if it did."""
    if requested is None or reached >= requested:
        return f"{reached:,} entries"
    return (
        f"{reached:,} entries of the {requested:,} asked for: the training text has no more pairs that occur "
        "often enough (more text, or a smaller --vocab_size, would suit it)"
    )


def split_card(sizes: np.ndarray, tokens: np.ndarray, rows: int, packed: int, block_size: int) -> dict[str, Any]:
    """The figures of one split.

    Args:
        sizes: UTF-8 bytes of its documents.
        tokens: Their tokens, without separators.
        rows: Packed rows.
        packed: Positions in them that hold a token or a separator.
        block_size: Positions in a row.
    """
    total = int(tokens.sum())
    return {
        "documents": len(tokens),
        "bytes": int(sizes.sum()),
        "tokens": total,
        "bytes_per_token": round(int(sizes.sum()) / max(total, 1), 3),
        "rows": rows,
        "density": round(packed / max(rows * block_size, 1), 4),
        "longest_document": int(tokens.max(initial=0)),
        "length_percentiles": {
            str(share): int(length)
            for share, length in zip(PERCENTILES, np.percentile(tokens, PERCENTILES) if len(tokens) else (), strict=False)
        },
    }


def source_cards(corpus: Corpus, content: str) -> dict[str, Any]:
    """What was read, in all and by source; `content` stands for all of it."""
    total, cards = Account(), []
    for number, source in enumerate(corpus.sources):
        account = corpus.account(number)
        total.add(account)
        given = {
            "name": source.name,
            "path": without_secrets(source.path),
            "format": source.format,
            "weight": source.weight,
            "split": source.split,
        }
        cards.append(given | {"documents": int((corpus.source_numbers == number).sum())} | account.as_json())
    return {"corpus": {"content": content} | total.as_json(), "sources": cards, "sections": corpus.sections}


def tokenizer_card(tokens: TokenizedCorpus, digest: str, trained: bool) -> dict[str, Any]:
    """What the tokenizer is, and how much of it the training split uses."""
    return {
        "vocab_size": len(tokens.tokenizer),
        "requested_vocab_size": tokens.tokenizer.requested,
        "trained_here": trained,
        "hash": digest,
        "end_of_text_id": tokens.tokenizer.end_of_text,
        "pad_token_id": tokens.tokenizer.pad,
        "used": round(int((tokens.used > 0).sum()) / len(tokens.tokenizer), 4),
    }


def markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    tokenizer = card["tokenizer"]
    lines = ["# Data card", ""]
    for source in card["sources"]:
        weight = "" if source["weight"] is None else f", weight {source['weight']:g}"
        lines.append(
            f"- `{source['name']}` ({source['format']}{weight}): {source['files']:,} files, {source['bytes']:,} bytes, "
            f"{source['documents']:,} documents"
        )
    clusters, members = card["clusters"]
    if clusters:
        lines.append(f"- {members:,} documents are copies of one another, or nearly so, in {clusters:,} clusters")
    if card["sections"]:
        lines.append(f"- so few that they were cut at blank lines into sections of about {card['sections'] / 1024:.1f} KB")
    lines += [
        "",
        f"Rows of {card['settings']['block_size']} tokens; vocabulary: "
        f"{vocabulary_line(tokenizer['vocab_size'], tokenizer['requested_vocab_size'])}, "
        f"{tokenizer['used']:.1%} of them used in training.",
        "",
        "| split | documents | bytes | tokens | bytes a token | rows | filled | median document | longest |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, split in card["splits"].items():
        lines.append(
            f"| {name} | {split['documents']:,} | {split['bytes']:,} | {split['tokens']:,} | {split['bytes_per_token']} | "
            f"{split['rows']:,} | {split['density']:.1%} | {split['length_percentiles'].get('50', 0):,} | "
            f"{split['longest_document']:,} |"
        )
    lines += _mixture(card) + _section("Left out", left_out(card)) + _section("Mended", mended(card))
    lines += _section("Common to many documents", [_block(block) for block in card["boilerplate"]])
    lines += _section("Time", [_time(stage, seconds, card["corpus"]["bytes"]) for stage, seconds in card["seconds"].items()])
    lines += ["", "![lengths of documents](document_lengths.png)"]
    return "\n".join(lines) + "\n"


def left_out(card: Mapping[str, Any]) -> list[str]:
    """Everything that is in no split, a line a reason."""
    total: dict[str, tuple[int, list[str]]] = {}
    for account in (*card["sources"], card["dropped"]):
        for reason, count in account["skipped"].items():
            before = total.get(reason, (0, []))
            total[reason] = (before[0] + count, before[1] + account["examples"].get(reason, []))
    return [f"{count:,} {reason} (e.g. {examples[0]})" for reason, (count, examples) in sorted(total.items())]


def mended(card: Mapping[str, Any]) -> list[str]:
    """What cleaning changed, a line each."""
    total: dict[str, tuple[int, list[str]]] = {}
    for source in card["sources"]:
        for what, count in source["changed"].items():
            before = total.get(what, (0, []))
            total[what] = (before[0] + count, before[1] + source["examples"].get(what, []))
    return [mended_line(what, count, examples) for what, (count, examples) in sorted(total.items())]


def _mixture(card: Mapping[str, Any]) -> list[str]:
    if not card["mixture"]:
        return []
    lines = ["", "| source | share wanted | share of the training tokens | repeated |", "|---|---:|---:|---:|"]
    for part in card["mixture"]:
        figures = f"{part['wanted']:.1%} | {part['achieved']:.1%} | {part['repeats']:.2f} ×"
        lines += [f"| `{part['source']}` | {figures} |"]
    return lines


def _block(block: Mapping[str, Any]) -> str:
    return f"{block['documents']:,} documents: {block['excerpt']}"


def _time(stage: str, seconds: float, size: int) -> str:
    return f"{stage}: {seconds:,.1f} s, {size / 1e6 / max(seconds, 1e-3):,.1f} MB/s"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", "", *(f"- {line}" for line in lines)] if lines else []
