# make help lists the targets. Needs Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's wheel index for another build, ROCm's say (pytorch.org names it); empty is pip's own.
TORCH_INDEX ?=
TORCH := $(shell grep -o '^torch==[0-9.]*' constraints.txt)

# What pretrain-rocm trains, on what, and further flags.
CONFIG = rx6700xt
CORPUS =
ARGS =

.DEFAULT_GOAL := help
.PHONY: help setup demo gearhead gearhead-compare gearhead-there infer refocused-test pretrain-rocm corpus-given test test-slow wheel-test chaos browser check fmt docs site docs-commands screenshots bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv and install (TORCH_INDEX=URL takes another PyTorch build, e.g. ROCm's)

# Installed once for the same project files; offline from then on. torch comes first and by its
# exact version, so that a build chosen by TORCH_INDEX stays.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## train a small model on the sample corpus, in minutes on a CPU
	PATH="$(abspath $(BIN)):$$PATH" accelerate launch recipes/pretrain_go.py

GEARHEAD := recipes/samples/gearhead_scenarios
gearhead: setup ## pretrain, fine-tune and ask a model about broken machines, in minutes on a CPU
	rm -rf runs/gearhead-base runs/gearhead
	PATH="$(abspath $(BIN)):$$PATH" accelerate launch recipes/pretrain_gearhead.py --output_dir runs/gearhead-base
	$(BIN)/llmforge convert $(GEARHEAD) runs/gearhead-rows --task $(GEARHEAD)/task.yaml
	PATH="$(abspath $(BIN)):$$PATH" accelerate launch recipes/finetune_gearhead.py \
	  --from_pretrained runs/gearhead-base --train_file runs/gearhead-rows --output_dir runs/gearhead
	$(BIN)/llmforge evaluate --model runs/gearhead --test_file runs/gearhead-rows --samples 1 --strategies greedy
	$(BIN)/python recipes/infer_gearhead.py --model runs/gearhead --equipment "Caterpillar 320D" \
	  --symptom "Engine loses power under load" --error-codes P0087

gearhead-compare: gearhead-there setup ## then: the same rows without the pretraining, and all three models on the held-out ones
	rm -rf runs/gearhead-scratch
	PATH="$(abspath $(BIN)):$$PATH" accelerate launch recipes/finetune_gearhead.py --from_scratch \
	  --from_pretrained runs/gearhead-base --train_file runs/gearhead-rows --output_dir runs/gearhead-scratch
	$(BIN)/llmforge evaluate --compare runs/gearhead runs/gearhead-scratch runs/gearhead-base --test_file runs/gearhead-rows

gearhead-there:
	@:$(if $(wildcard runs/gearhead/final),,$(error There is no runs/gearhead yet: make gearhead trains it))

# Another run that has learnt a task: MODEL. Its fields, or a prompt: ARGS, as llmforge generate takes them.
MODEL = runs/gearhead
EQUIPMENT =
SYMPTOM =
CODES =
infer: setup ## ask what make gearhead has trained: [EQUIPMENT= SYMPTOM= CODES=], or [MODEL=DIR ARGS='--field name=value']
	$(if $(ARGS),$(BIN)/llmforge generate --model "$(MODEL)" $(ARGS),$(BIN)/python recipes/infer_gearhead.py --model "$(MODEL)" \
	  $(if $(EQUIPMENT),--equipment "$(EQUIPMENT)") $(if $(SYMPTOM),--symptom "$(SYMPTOM)") $(if $(CODES),--error-codes $(CODES)))

refocused-test: setup ## the refocused recipe end to end on a CPU: shards from an emulated bucket, killed, resumed from the bucket
	$(BIN)/python -m pytest -v tests/remote/test_recipe.py tests/recipes/test_pretrain_refocused.py

# Not tried on hardware. RDNA2 cards other than gfx1030 have no kernels of their own in ROCm and run
# gfx1030's; RDNA3 and CDNA have, and the override would break them. The first card that rocminfo
# names is the one of rocm_fp16.yaml. A value that you exported stays.
pretrain-rocm: corpus-given setup ## train on one AMD GPU (not tried on hardware): CORPUS=DIR [CONFIG=rx6700xt] [ARGS='--max_steps 9']
	@card=$$(rocminfo 2>/dev/null | awk '$$1 == "Name:" && $$2 ~ /^gfx/ { print $$2; exit }'); \
	case "$$card" in \
	  gfx103[1-6]) export HSA_OVERRIDE_GFX_VERSION="$${HSA_OVERRIDE_GFX_VERSION:-10.3.0}" ;; \
	  '') echo "warning: rocminfo names no AMD GPU; is ROCm installed?" >&2 ;; \
	esac; \
	export PYTORCH_HIP_ALLOC_CONF="$${PYTORCH_HIP_ALLOC_CONF:-garbage_collection_threshold:0.8,max_split_size_mb:512}"; \
	echo "card $${card:-unknown}, HSA_OVERRIDE_GFX_VERSION=$${HSA_OVERRIDE_GFX_VERSION:-unset}"; \
	PATH="$(abspath $(BIN)):$$PATH" accelerate launch --config_file accelerate_configs/rocm_fp16.yaml \
	  recipes/pretrain_go.py --config $(CONFIG) --corpus "$(CORPUS)" $(ARGS)

corpus-given:
	@:$(if $(CORPUS),,$(error CORPUS is not given: make pretrain-rocm CORPUS=DIR trains on the files of DIR))

# A process more than there are cores: models are tiny, each process keeps to one thread (tests/conftest.py), and some wait.
WORKERS = $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')
test: setup ## run the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Debian's, where apt and root are there; without a browser its tests are skipped, and nothing fails.
browser: ## install Chromium for the tests of the report, where this may
	@if command -v chromedriver >/dev/null; then echo "chromedriver is there"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  timeout 300 sh -c 'apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	    chromium chromium-driver >/dev/null' \
	  || echo "warning: Chromium could not be installed; the tests that need a browser are skipped" >&2; \
	else echo "Chromium needs root and apt (apt-get install chromium chromium-driver); the tests that need it are skipped" >&2; fi

test-slow: setup ## run the longer sweeps too
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m ''

wheel-test: setup ## build the wheel and go all the way with it in a fresh environment; takes minutes and the package index
	$(BIN)/python -m pytest -v -m '' tests/test_package.py

chaos: setup ## kill trainings 500 times, stock Trainer beside, and play the fault matrix, the network's included; two hours
	PYTHONPATH=.:tests $(BIN)/python -m reliability.chaos
	PYTHONPATH=.:tests $(BIN)/python -m reliability.sweeps
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m '' tests/reliability tests/remote

check: setup ## lint, format, types, layers and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/build_site.py
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

fmt: setup ## format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write docs/reference again from the code
	$(BIN)/python docs/generate.py

site: setup ## build the documentation as a site in build/site; a broken link fails it
	$(BIN)/python docs/build_site.py

docs-commands: setup ## count the commands of README and docs and run them, shortened; half an hour
	$(BIN)/python tests/documented.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m '' tests/test_commands_run.py

screenshots: setup ## make the pictures of docs/images anew; needs a browser
	$(BIN)/python docs/screenshots.py

bench: setup ## run the benchmarks that need no GPU, some twenty minutes
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/attention.py --rounds 3
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/checkpoint.py --preset small
	$(BIN)/python benchmarks/plan.py --rows 10m
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/dial.py --minutes 3 --only "the dial" "NeoX 4 x 64, 4k, dropout 0.2" "GPT-2 2 x 128, 4k, dropout 0.2"

clean: ## remove the environment and caches of the tools; runs and prepared data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
