# Everything that people and CI run. `make demo` needs Python 3.11 or newer, make and a network, and nothing else.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# Where `make demo DATA=path/to/zip-or-folder` takes its pictures from; empty: handwritten digits.
DATA ?=
ARGS ?=

.PHONY: install demo up env test test-all check lint format clean help

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(READY) ## make .venv and install the pinned dependencies, unless that is done

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) was not found. Darkroom needs Python 3.11 or newer: install it, or name one with 'make PYTHON=python3 …'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1). Darkroom needs Python 3.11 or newer: name one with 'make PYTHON=… …'."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,export,tensorboard,laptop,dev]'
	@touch $@

demo: $(READY) ## real pictures in, new pictures out, in minutes; leaves the service up until Ctrl-C
	@exec $(BIN)/darkroom demo $(if $(DATA),--data '$(DATA)') $(ARGS)

up: $(READY) ## the whole service in the foreground, until Ctrl-C
	@exec $(BIN)/darkroom up $(ARGS)

test: $(READY) ## the tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-all: $(READY) ## the tests and the slow ones
	$(BIN)/python -m pytest -n 2 -m "" $(ARGS)

lint: $(READY) ## formatting, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test-all ## what CI runs

format: $(READY) ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built and cached; the data directory stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

env: ## .env with random passwords for docker compose, unless there is one, and a folder for pictures
	@mkdir -p pictures # else the engine makes it, owned by root
	@test -e .env && echo ".env is there already" || { umask 077; \
		for name in POSTGRES_PASSWORD REDIS_PASSWORD; do \
			echo "$$name=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"; \
		done >.env; echo "wrote .env"; }
