"""accelerate launch recipes/pretrain_smollm.py

Pretrain a GPT-2 on lessons and stories from the hub's smollm-corpus. Bare, it runs the demo on a sample in the
same form; the corpus itself, of which so much as the config says is fetched and prepared once:

    accelerate launch recipes/pretrain_smollm.py --config 124m

Configs: demo, 124m (recipes/configs/pretrain_smollm/), or a path. Any field is a flag; --help lists them,
--dry_run says what would run. The stages of `pretrain_model` are written out in pretrain_go.py.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # records from the hub or a file -> splits -> tokenizer -> packed rows, cached -> model
    return llmforge.pretrain_model(config)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
