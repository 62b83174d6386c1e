"""accelerate launch recipes/pretrain_gearhead.py

Pretrain a GPT-2 on equipment diagnostics, in which every paragraph is a document. Bare, it runs the demo on the
sample corpus; your own text, on a GPU in half precision:

    accelerate launch --config_file accelerate_configs/single_gpu_fp16.yaml \\
        recipes/pretrain_gearhead.py --config 124m --corpus DIR

Configs: demo, 124m (recipes/configs/pretrain_gearhead/), or a path. Any field is a flag; --help lists them,
--dry_run says what would run. The stages of `pretrain_model` are written out in pretrain_go.py.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # paragraphs -> splits -> tokenizer -> packed rows -> model, its activations made again where memory is short
    return llmforge.pretrain_model(config)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
