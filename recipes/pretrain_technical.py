"""accelerate launch recipes/pretrain_technical.py

Pretrain a GPT-2 on technical notes: Markdown, text, and questions with answers. Bare, it runs the demo on the
sample about Kubernetes, Docker and Terraform; your own notes, and your own questions beside them:

    accelerate launch recipes/pretrain_technical.py --config tiny --corpus DIR
    accelerate launch recipes/pretrain_technical.py --config tiny --source path=DIR --source format=json,content=qa,path=qa.json

Configs: demo, tiny, small, medium (recipes/configs/pretrain_technical/), or a path. Any field is a flag; --help
lists them, --dry_run says what would run. The stages of `pretrain_model` are written out in pretrain_go.py.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # notes, texts and rendered questions -> tokenizer -> packed rows -> model -> the best one's test report
    return llmforge.pretrain_model(config)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
