"""accelerate launch recipes/finetune_gearhead.py --from_pretrained runs/gearhead-base --train_file runs/gearhead-rows

Fine-tune a model on equipment diagnostics: given machine, symptom and error codes it writes system, cause,
solution and maintenance.
`make gearhead` is the whole way, from the sample texts to an answer: pretrain, convert the scenarios, fine-tune, ask.

Configs: demo (recipes/configs/finetune_gearhead/), or a path. Any field is a flag; --help lists them, --dry_run says
what would run.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_finetune(argv, recipe=__file__)

    # model and tokenizer, and the rows packed with a mask of what is learnt
    start, data = llmforge.prepare_finetune(config)

    with llmforge.open_run(config, data) as run:

        def build():
            return llmforge.build_trainer(
                llmforge.tuned_model(start, config),
                data,
                config.training,
                generation=config.generation,
                run=config.run,
                folder=run.path,
                callbacks=run.callbacks,
                saving=config.checkpoint,
            )

        # trainer.train(), from the checkpoint of --resume; with --auto_batch again where memory runs out
        trainer = llmforge.train_fitting(build, config, run)
        return llmforge.finish(trainer, run, config, data, start)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
