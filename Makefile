# The table of contents. A stage runs in the container or in .venv, as RUNTIME says; nothing here that belongs in Python.

#: RECIPE=tiny-cpu   a recipe file, or the name of one that ships
RECIPE ?= tiny-cpu
#: ARGS=             key=value overrides and options of the verb, as you would write them in a shell
ARGS ?=
#: RUNTIME=          docker or local; unset: docker where engine, GPU and image are there, else local, saying why
RUNTIME ?=
#: GPUS=all          all, none (the CPU image), or numbers such as 0,1
GPUS ?= all
#: WORK=.            the folder with recipe, data and runs: all that the container sees of yours, as /work
WORK ?=
#: HF_HOME=          the Hugging Face cache that is shared with the container (unset: ~/.cache/huggingface)
HF_HOME ?= $(HOME)/.cache/huggingface
#: PASS_ENV=         names of more environment variables for the container, such as the key of a teacher
PASS_ENV ?=
#: NETWORK=host      the container's network; host: what listens on loopback stays on this machine's loopback
NETWORK ?= host
#: MEMLOCK=...       MEMLOCK= where Docker may not raise that limit
MEMLOCK ?= --ulimit memlock=-1
#: IMAGE=            another training image
IMAGE ?= easyllm-train:$(if $(filter none,$(GPUS)),cpu,cuda)
#: URL=...           the server that chat talks to and self-test asks; with compose http://127.0.0.1:8080
URL ?= http://127.0.0.1:8642
#: DIR=              the rows that review shows and sft2ift converts
DIR ?= runs/$(RECIPE)/instruct
#: OUT=              where sft2ift writes
OUT ?= $(DIR).ift
#: BUILD=            options of make build: python3 easyllm/env/images.py build --help
BUILD ?=
#: PYTEST_ARGS=      options of pytest
PYTEST_ARGS ?=

# asked once, and only by a target that runs something
CHOICE = $(eval CHOICE := $(shell python3 easyllm/env/runtime.py "$(GPUS)" "$(IMAGE)"))$(CHOICE)
WHERE = $(or $(filter docker local,$(or $(RUNTIME),$(CHOICE))),$(error RUNTIME=$(RUNTIME) must be docker or local))
EASYLLM = $(EASYLLM_$(WHERE))

EASYLLM_local = python3 easyllm/env/bootstrap.py && $(if $(WORK),cd "$(WORK)" && )$(if $(filter all,$(GPUS)),,CUDA_VISIBLE_DEVICES=$(filter-out none,$(GPUS)) )$(if $(WORK),"$(CURDIR)"/).venv/bin/easyllm
SHELL_local = python3 easyllm/env/bootstrap.py && PATH="$(CURDIR)/.venv/bin:$$PATH" bash

EASYLLM_docker = mkdir -p "$(HF_HOME)" && $(CONTAINER) easyllm
SHELL_docker = mkdir -p "$(HF_HOME)" && $(CONTAINER) bash
CONTAINER = docker run --rm --init $(KEYBOARD)--pull=never $(DEVICES)--user $(USER_ID) --ipc=host --ulimit stack=67108864 $(MEMLOCK) --network=$(NETWORK) $(MOUNTS) $(NAMES:%=-e %) $(IMAGE)
DEVICES = $(if $(filter none,$(GPUS)),,--gpus $(if $(filter all,$(GPUS)),all,'"device=$(GPUS)"') )
USER_ID = $(shell id -u):$(shell id -g)
MOUNTS = -v "$(if $(WORK),$(shell cd "$(WORK)" && pwd),$(CURDIR))":/work -v "$(HF_HOME)":/hf -e HF_HOME=/hf -e HOME=/tmp/home
# by name only: no value, so no key, stands in a command line or a log
NAMES = HF_TOKEN HF_ENDPOINT OPENAI_API_KEY EASYLLM_LANG LC_ALL LC_MESSAGES LANG $(PASS_ENV)
# a terminal where make has one; chat and shell read a pipe too
KEYBOARD = $(if $(MAKE_TERMOUT),$(shell test -t 0 && echo "-it "))
chat review shell: KEYBOARD = $(if $(MAKE_TERMOUT),$(shell test -t 0 && echo "-it " || echo "-i "),-i )

.DEFAULT_GOAL := help
.PHONY: help setup build shell doctor run check plan corpus pretrain pretrain-megatron pretrain-deepspeed convert \
  self-instruct review sft2ift finetune finetune-full finetune-lora align merge evaluate export serve chat self-test demo lint test \
  test-docker clean

help: ## this page
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 26
	@echo "variables, with what holds when you set none:"
	@sed -n 's/^#: /  /p' Makefile

setup: ## the local environment in .venv, pinned packages (TORCH_INDEX=, TORCH_WHEELS=, EASYLLM_PYTHON=)
	@python3 easyllm/env/bootstrap.py

build: ## the container images, after saying what will be built (BUILD= options)
	python3 easyllm/env/images.py build $(BUILD)

demo: ## the whole life of a small model, ending in a served answer
	$(EASYLLM) run tiny-cpu $(ARGS)

run: ## every stage of RECIPE: skips what is fresh, goes on where it was cut
	$(EASYLLM) run "$(RECIPE)" $(ARGS)

check: ## every mistake in RECIPE that can be known before it runs
	$(EASYLLM) check "$(RECIPE)" $(ARGS)

plan: ## what RECIPE would run, and why
	$(EASYLLM) plan "$(RECIPE)" $(ARGS)

corpus: ## raw text to a tokenizer and indexed tokens
	$(EASYLLM) corpus "$(RECIPE)" $(ARGS)

pretrain: ## tokens to a checkpoint, with the engine RECIPE names
	$(EASYLLM) pretrain "$(RECIPE)" $(ARGS)

pretrain-megatron: ## the same with Megatron-Core
	$(EASYLLM) pretrain "$(RECIPE)" pretrain.engine=megatron $(ARGS)

pretrain-deepspeed: ## the same under DeepSpeed: ZeRO, CPU Adam
	$(EASYLLM) pretrain "$(RECIPE)" pretrain.engine=deepspeed $(ARGS)

convert: ## checkpoint to a Hugging Face model, proven by parity
	$(EASYLLM) convert "$(RECIPE)" $(ARGS)

self-instruct: ## seed tasks and a teacher to instruction rows; its key: OPENAI_API_KEY or PASS_ENV=
	$(EASYLLM) instruct "$(RECIPE)" $(ARGS)

review: ## the human cleaning of the rows in DIR, in the browser (ARGS=--tui: in the terminal)
	$(EASYLLM) review "$(DIR)" $(ARGS)

sft2ift: ## accepted rows of DIR to rows to train on in OUT, in any of four formats
	$(EASYLLM) sft2ift "$(DIR)" --out "$(OUT)" $(ARGS)

finetune: ## instruction rows and a model to an adapter or a model, by the method RECIPE names
	$(EASYLLM) finetune "$(RECIPE)" $(ARGS)

finetune-full: ## the same, every weight
	$(EASYLLM) finetune "$(RECIPE)" finetune.method=full $(ARGS)

finetune-lora: ## the same with LoRA
	$(EASYLLM) finetune "$(RECIPE)" finetune.method=lora $(ARGS)

align: ## preference pairs and a model to one that prefers what was chosen
	$(EASYLLM) align "$(RECIPE)" $(ARGS)

merge: ## adapter and base to one model, proven by parity
	$(EASYLLM) merge "$(RECIPE)" $(ARGS)

evaluate: ## held-out loss, perplexity and answers side by side
	$(EASYLLM) evaluate "$(RECIPE)" $(ARGS)

export: ## model to the layout of transformers 4, GGUF, model card and hub folder
	$(EASYLLM) export "$(RECIPE)" $(ARGS)

serve: ## serve RECIPE's model until Ctrl-C (RECIPE may be a folder: the newest merged model in it)
	$(EASYLLM) serve "$(RECIPE)" $(ARGS)

chat: ## talk to the server at URL in the terminal
	$(EASYLLM) chat $(URL) $(ARGS)

self-test: ## which parts of the OpenAI and TGI API the server at URL keeps
	$(EASYLLM) serve --self-test $(URL) $(ARGS)

shell: ## a shell where the stages run
	$(SHELL_$(WHERE))

# The machine is seen from outside, also where no container starts; RUNTIME=docker looks at the image from inside.
doctor: CHOICE = local
doctor: ## what this machine can run, and the fix where it cannot
	$(EASYLLM) doctor $(ARGS)

lint: setup ## ruff and mypy
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

test: lint ## linting, typing and every test that needs no container
	.venv/bin/python -m pytest -q -m "not docker" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-docker: setup ## the images: built, run and served on a real engine
	.venv/bin/python -m pytest -q -m docker tests/docker $(PYTEST_ARGS)

clean: ## delete the environment (runs/ is yours and stays)
	rm -rf .venv *.egg-info
