"""accelerate launch recipes/pretrain_refocused.py

Pretrain a GPT-NeoX of 1.2 billion parameters on token ids that were made elsewhere: .npz shards, in a folder or in a bucket.
Bare, it runs the demo, a small model on the sample's shards. Your own, on several GPUs, each checkpoint sent to the bucket:

    accelerate launch --config_file accelerate_configs/fsdp.yaml recipes/pretrain_refocused.py --config test \\
        --corpus gs://BUCKET/shards --tokenizer DIR --output_dir runs/refocused --remote gs://BUCKET/runs
    … --config production, the same otherwise
    … --resume, which goes on from the newest checkpoint, here or there; --resume gs://BUCKET/runs/refocused on an empty machine

Configs: demo, test (5 files, 100 steps), production (recipes/configs/pretrain_refocused/), or a path. Any field is a flag;
--help lists them, --dry_run says what would run. The stages of `pretrain_model` are written out in pretrain_go.py.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # shards of ids -> packed rows -> model -> checkpoints, here and in the bucket -> the best one's test report
    return llmforge.pretrain_model(config)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
