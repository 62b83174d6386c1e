"""python recipes/infer_gearhead.py --model runs/gearhead --equipment "Caterpillar 320D" \\
    --symptom "Engine loses power under load" --error-codes P0087

Ask a model that recipes/finetune_gearhead.py has made. The same for any task is `llmforge generate --field name=value`.
"""

import argparse
import sys

import llmforge


def main(argv=None):
    parser = argparse.ArgumentParser(description="What is wrong with a machine, and what to do about it.")
    parser.add_argument("--model", required=True, help="The folder of the run, or its final/.")
    parser.add_argument("--equipment", required=True, help="Maker and model.")
    parser.add_argument("--symptom", required=True, help="What it does or does not do.")
    parser.add_argument("--error-codes", "--error_codes", nargs="*", default=[], help="What the display shows.")
    args = parser.parse_args(argv)

    row = {"equipment": args.equipment, "symptom": args.symptom, "error_codes": args.error_codes}
    print(llmforge.ask(args.model, row))


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
