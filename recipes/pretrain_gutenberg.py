"""accelerate launch recipes/pretrain_gutenberg.py

Pretrain a GPT-2 on books of Project Gutenberg, without their headers and licences. Bare, it runs the demo on the
sample; a folder of books, or books by their numbers, which are fetched:

    accelerate launch recipes/pretrain_gutenberg.py --config 124m --corpus DIR
    accelerate launch recipes/pretrain_gutenberg.py --config 124m --corpus 84,1342,2701

Configs: demo, 124m (recipes/configs/pretrain_gutenberg/), or a path. Any field is a flag; --help lists them,
--dry_run says what would run. The stages of `pretrain_model` are written out in pretrain_go.py.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # books -> their own words -> splits by book -> tokenizer -> packed rows -> model
    return llmforge.pretrain_model(config)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
