"""python recipes/infer_gearhead.py --model runs/gearhead --equipment "Caterpillar 320D" \\
    --symptom "Engine loses power under load" --error-codes P0087

Ask a model that recipes/finetune_gearhead.py has made; what is not given is asked for. The same for any task is
`llmforge generate --field name=value`.
"""

import argparse
import sys

import llmforge


def asked(question):
    print(question, end=" ", flush=True)
    return sys.stdin.readline().strip()


def main(argv=None):
    parser = argparse.ArgumentParser(description="What is wrong with a machine, and what to do about it.")
    parser.add_argument("--model", default="runs/gearhead", help="The folder of the run, or its final/.")
    parser.add_argument("--equipment", help="Maker and model.")
    parser.add_argument("--symptom", help="What it does or does not do.")
    parser.add_argument("--error-codes", "--error_codes", nargs="*", default=[], help="What the display shows.")
    args = parser.parse_args(argv)

    asks = args.equipment is None or args.symptom is None
    equipment = args.equipment or asked("Equipment:")
    symptom = args.symptom or asked("Symptom:")
    codes = args.error_codes or (asked("Error codes, if any:") if asks else [])
    print(llmforge.ask(args.model, {"equipment": equipment, "symptom": symptom, "error_codes": codes}))


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
