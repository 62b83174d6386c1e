"""A model evaluated on text."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from llmforge.configs.data import DataArguments
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.data.prepared import PreparedDataset
from llmforge.errors import ConfigError
from llmforge.runtime.launch import rank, rank_zero_first
from llmforge.scoring.figures import figures_of, zstd_size
from llmforge.scoring.result import Evaluation
from llmforge.scoring.samples import SAMPLE_TOKENS, given_prompts, sample_prompts, text_prompts
from llmforge.scoring.sums import by_document, segment_sums
from llmforge.scoring.text import EvaluationText, refuse_other_tokenizer, text_of_corpus, text_of_dataset

if TYPE_CHECKING:
    from llmforge.pretrained.loading import Pretrained


def evaluate_text(
    found: Pretrained,
    data: PreparedDataset | DataArguments,
    args: EvaluationArguments,
    generation: GenerationArguments,
    given: set[str],
    settings: dict[str, Any],
) -> Evaluation:
    """Evaluate a model on text.

    Args:
        found: The model.
        data: A prepared dataset, or where text is.
        args: Split, stride, context, batch size and precision.
        generation: How samples are made.
        given: Its settings that the user gave.
        settings: What to tell with the figures.

    Raises:
        ConfigError: A stride longer than the context.
        DataError: The text cannot be read, or was tokenized for another model.
    """
    positions = int(found.model.config.max_position_embeddings)
    if isinstance(data, PreparedDataset):
        refuse_other_tokenizer(found.tokenizer, data, f"--model {found.path}")
        block_size = args.block_size or min(data.block_size, positions)
    else:
        block_size = args.block_size or found.context
    if args.stride is not None and args.stride > block_size:
        raise ConfigError(f"--stride {args.stride} is longer than the context of {block_size} tokens.", "Give a shorter one.")

    def read() -> EvaluationText:
        if isinstance(data, PreparedDataset):
            return text_of_dataset(data, args.split)
        return text_of_corpus(data, found.tokenizer, in_sections=bool(args.compare))

    # The machine's first process reads and tokenizes; the others find it in the cache.
    rank_zero_first()(lambda: read().fingerprint)
    text = read()
    split = args.split if isinstance(data, PreparedDataset) else None
    settings = {"split": split, "block_size": block_size, "stride": args.stride, **settings}
    sums, document_of = segment_sums(found, text.rows(block_size, found.tokenizer, args.stride), args)
    sources = {
        name: figures_of(sums, document_of, text.source_of == number, zstd_size(text.bytes_of(found.tokenizer, number)))
        for number, name in enumerate(text.sources)
        if (text.source_of == number).any()
    }
    sizes = [figures.zstd_bytes for figures in sources.values()]
    total = figures_of(sums, document_of, text.source_of >= 0, sum(sizes))
    result = Evaluation(found.path, text.name, total, sources, settings, text.fingerprint)
    result.by_document = by_document(sums, document_of, len(text.documents))
    if args.samples and rank() == 0:
        shorter = generation if "max_new_tokens" in given else dataclasses.replace(generation, max_new_tokens=SAMPLE_TOKENS)
        own = given_prompts(found, generation.prompts)
        result.samples = sample_prompts(found, own or text_prompts(found, text, shorter, args.samples), shorter)
    return result
