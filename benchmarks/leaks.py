"""OMP_NUM_THREADS=1 python benchmarks/leaks.py [--corpus DIR] [--documents N] [--steps N] [--json]

What near-duplicates between training and validation do to validation perplexity.

A corpus in which half of the documents have a copy with a tenth of their words changed, as collected text
has, is split twice by the same places: without looking for near-duplicates (``--dedup off``), and by the
defaults. The same tiny model (GPT-2, 2 layers of 128) is trained on either training set, from the same
weights, for the same steps; both are then measured on both validation sets, and on fresh documents that
were set aside before any copy was made, which is what validation stands for. Of the validation sets the
changed copies are left out: their changes are noise, which no model foretells. The figures of
docs/concepts/duplicates.md:

    OMP_NUM_THREADS=1 python benchmarks/leaks.py --corpus /usr/share/go-1.19/src/net
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, table, tell
from datasets import Dataset
from dedup import SUFFIXES, TOKEN, as_keys, edited, fingerprints, read
from sides import forge, quiet
from transformers import GPT2Config, GPT2LMHeadModel

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.leaks import LENGTHS, check_leaks
from llmforge.data.packing import pack
from llmforge.data.splits import assign, split_position
from llmforge.tokenization import TextTokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY, BLOCK, ROWS = 2048, 256, 8
NAMES = ("input_ids", "segment_lengths", "segment_targets", "segment_documents")
WAYS: dict[str, dict[str, str]] = {"near-duplicates across": {"dedup": "off"}, "kept apart": {}}


def with_copies(texts: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Texts, copies of half of them with a tenth changed, and a fifth of all, which was set aside before."""
    source = random.Random(0)
    texts = source.sample(texts, len(texts))
    fresh, kept = texts[: len(texts) // 5], texts[len(texts) // 5 :]
    # Fresh must mean fresh: what has a near-duplicate by nature is none.
    rows = fingerprints(texts, DataArguments().dedup_shingle)
    near = (rows[: len(fresh), None] == rows[None, len(fresh) :]).mean(axis=2).max(axis=1) >= DataArguments().dedup_threshold
    fresh = [text for text, bad in zip(fresh, near.tolist(), strict=True) if not bad]
    vocabulary = [token for text in kept for token in TOKEN.findall(text) if token.strip()]
    return kept, [edited(text, 0.1, vocabulary, source) for text in kept[: len(kept) // 2]], fresh


def make_rows(texts: list[str], tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Packed rows of `texts`."""
    ids = list(tokenizer.encode(texts))
    rows = pack(ids, range(len(ids)), BLOCK, tokenizer.end_of_text, tokenizer.pad)
    return [{name: np.asarray(getattr(rows, name)[index]) for name in NAMES} for index in range(len(rows.input_ids))]


def train(rows: list[dict[str, Any]], steps: int, folder: Path) -> Any:
    """A trainer whose model was trained on `rows`."""
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 128, "n_head": 2, "n_positions": BLOCK, "vocab_size": VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    trainer = forge(model, rows, folder, max_steps=steps, per_device_train_batch_size=ROWS, learning_rate=2e-3, use_cpu=True)
    trainer.train()
    return trainer


def main() -> None:
    """Split, train, measure and print."""
    options = parser(__doc__)
    options.add_argument("--corpus", type=Path, default=ROOT / "recipes" / "samples" / "go", help="folder of source files")
    options.add_argument("--documents", type=int, default=120, help="documents of up to 6,000 characters that are taken")
    options.add_argument("--steps", type=int, default=250, help="steps of each of the two trainings")
    args = options.parse_args()
    quiet()
    found = [text for text in read(args.corpus, SUFFIXES) if 500 <= len(text) <= 6000]
    originals, copies, fresh = with_copies(random.Random(0).sample(found, min(len(found), args.documents)))
    texts = originals + copies
    tokenizer = train_tokenizer(texts, TokenizerArguments(vocab_size=VOCABULARY))
    positions = np.array([split_position(text, 0) for text in texts])
    signatures = fingerprints(texts, DataArguments().dedup_shingle)
    members, shares = {}, {}
    for way, settings in WAYS.items():
        given = DataArguments(split_ratios="0.8,0.2", **settings)
        members[way] = assign(given, positions, as_keys(texts), signatures).members()
        splits = {name: Dataset.from_dict({"text": [texts[i] for i in indices]}) for name, indices in members[way].items()}
        shares[way] = {leak.n: leak.share for leak in check_leaks(splits).splits}
    measured_on = {f"validation, {way}": [texts[i] for i in members[way]["validation"] if i < len(originals)] for way in WAYS} | {
        "fresh": fresh
    }
    sets = {name: make_rows(items, tokenizer) for name, items in measured_on.items()}
    perplexity: dict[str, dict[str, float]] = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            rows = make_rows([texts[i] for i in members[way]["train"]], tokenizer)
            trainer = train(rows, args.steps, Path(folder))
            perplexity[way] = {name: float(trainer.evaluate(held)["eval_perplexity"]) for name, held in sets.items()}
    figures = {
        "documents": {way: {name: len(indices) for name, indices in split.items()} for way, split in members.items()},
        "fresh": len(fresh),
        "steps": args.steps,
        "covered": shares,
        "perplexity": perplexity,
    }
    lines = [["trained with", "documents", "runs of 50", "runs of 13", *sets]]
    for way, values in perplexity.items():
        told = [str(len(members[way]["train"])), *(f"{shares[way][n]:.1%}" for n in LENGTHS)]
        lines.append([way, *told, *(f"{value:.2f}" for value in values.values())])
    tell(args.json, figures, table(lines))


if __name__ == "__main__":
    main()
