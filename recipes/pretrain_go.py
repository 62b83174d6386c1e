"""accelerate launch recipes/pretrain_go.py

Pretrain a GPT-2 on Go code. Bare, it runs the demo on the sample corpus; your own code:

    accelerate launch recipes/pretrain_go.py --config cpu --corpus DIR
    accelerate launch --config_file accelerate_configs/single_gpu_bf16.yaml recipes/pretrain_go.py --config 124m --corpus DIR

Configs: demo, cpu, 50m, 124m, 355m, rx6700xt (recipes/configs/pretrain_go/), or a path. Any
field is a flag; --help lists them, --dry_run says what would run.
"""

import sys

import llmforge


def main(argv=None):
    config = llmforge.parse_pretrain(argv, recipe=__file__)

    # Go files -> documents -> splits -> tokenizer -> packed rows, cached by content
    data = llmforge.prepare_run(config)

    with llmforge.open_run(config, data) as run:

        def build():
            model = llmforge.build_model(config.model, data.tokenizer, data.block_size, seed=config.training.seed)
            return llmforge.build_trainer(
                model,
                data,
                config.training,
                generation=config.generation,
                run=config.run,
                folder=run.path,
                max_eval_samples=config.data.max_eval_samples,
                callbacks=run.callbacks,
                saving=config.checkpoint,
            )

        # trainer.train(), from the checkpoint of --resume; with --auto_batch again where memory runs out
        trainer = llmforge.train_fitting(build, config, run)
        return llmforge.finish(trainer, run, config, data)


if __name__ == "__main__":
    sys.exit(llmforge.run_command(main))
