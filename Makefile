# The table of contents. Every target makes its own set-up; nothing here that belongs in Python.
RECIPE ?= tiny-cpu
ARGS   ?=
URL    ?= http://127.0.0.1:8642
PYTEST_ARGS ?=
EASYLLM = .venv/bin/easyllm
STAGES  = corpus pretrain convert finetune merge evaluate

.DEFAULT_GOAL := help
.PHONY: help setup demo serve chat check plan doctor lint test clean $(STAGES)

help: ## this page
	@grep -hE '^[a-z$$()A-Z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/$$(STAGES)/STAGE/' | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  STAGE is one of: $(STAGES)"
	@echo "  RECIPE=$(RECIPE) ARGS='$(ARGS)'  a recipe file or the name of one that ships; key=value overrides"

setup: ## the local environment in .venv, pinned packages (TORCH_INDEX=, TORCH_WHEELS=, EASYLLM_PYTHON=)
	@python3 easyllm/env/bootstrap.py

demo: setup ## the whole life of a small model on this machine, ending in a served answer
	$(EASYLLM) run tiny-cpu $(ARGS)

$(STAGES): setup ## one stage of RECIPE
	$(EASYLLM) $@ $(RECIPE) $(ARGS)

serve: setup ## serve RECIPE's model until Ctrl-C (after make demo: the demo's)
	$(EASYLLM) serve $(RECIPE) $(ARGS)

chat: setup ## talk to the server of `make serve` in the terminal
	$(EASYLLM) chat $(URL) $(ARGS)

check: setup ## every mistake in RECIPE that can be known before it runs
	$(EASYLLM) check $(RECIPE) $(ARGS)

plan: setup ## what RECIPE would run, and why
	$(EASYLLM) plan $(RECIPE) $(ARGS)

doctor: setup ## what this machine can run
	$(EASYLLM) doctor

lint: setup ## ruff and mypy
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

test: lint ## linting, typing and every test
	.venv/bin/python -m pytest -q $(PYTEST_ARGS)

clean: ## delete the environment (runs/ is yours and stays)
	rm -rf .venv *.egg-info
