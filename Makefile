# make serve   installs Headrace and serves a real chat model   (MODEL=..., PORT=...)
# make test    installs the development tools and runs every check and every test suite

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
MODEL  ?=
ARGS   ?=

BIN      := $(VENV)/bin
PACKAGES := headrace_shared headrace_api headrace_worker headrace_cli
PIP      := $(BIN)/python -m pip install --disable-pip-version-check --no-input
# Slow tests stand side by side: whoever is done early takes some of them over.
PYTEST   := $(BIN)/python -m pytest -n 3 --dist worksteal
KILLS    ?= 500
SEED     ?= 1
MINUTES  ?= 10
ITEMS    ?= 10000
EXAMPLES ?= 1000
FAST     := tests/unit tests/contract

# Idle OpenMP threads must sleep, not spin: several processes share the cores.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help serve install kernels test test-fast fuzz faults batches soak check format bench clean

help:
	@echo 'make serve      install, then serve a chat model on http://$(HOST):$(PORT)  (MODEL=path-or-id, PORT=, ARGS="...")'
	@echo 'make test       install the development tools, then run all checks and tests'
	@echo 'make test-fast  unit and contract tests without the slow ones, under a minute'
	@echo 'make fuzz       send made-up requests to every endpoint  (EXAMPLES=$(EXAMPLES) for each)'
	@echo 'make faults     kill processes at random under load and compare every answer  (KILLS=$(KILLS) SEED=$(SEED))'
	@echo 'make batches    work on a batch while everything that does so is killed  (ITEMS=$(ITEMS), or MODEL=demo ITEMS=200)'
	@echo 'make soak       run users for minutes, and see whether memory grows  (MINUTES=$(MINUTES))'
	@echo 'make check      formatting, lint, types, import rules'
	@echo 'make kernels    compile the kernels again, after a change of their sources'
	@echo 'make format     format the code and fix what lint can fix'
	@echo 'make bench      measure a running server at http://$(HOST):$(PORT)  (ARGS="--concurrency 32")'
	@echo 'make clean      remove the virtual environment and all caches'

serve: $(VENV)/.all
	@exec $(BIN)/headrace serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

install: $(VENV)/.dev

kernels: $(VENV)/.dev
	$(BIN)/python hatch_build.py

test: check
	$(PYTEST) tests

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -n 4 -m "not slow" $(FAST)

fuzz: $(VENV)/.dev
	HEADRACE_FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) tests/contract/openai/test_fuzz.py

faults: $(VENV)/.dev
	PYTHONPATH=tests/support $(BIN)/python tests/support/campaign.py --kills $(KILLS) --seed $(SEED)

batches: $(VENV)/.dev
	PYTHONPATH=tests/support $(BIN)/python tests/benchmarks/batches.py --items $(ITEMS) $(if $(MODEL),--model $(MODEL)) --kills

soak: $(VENV)/.dev
	PYTHONPATH=tests/support $(BIN)/python tests/support/soak.py --minutes $(MINUTES)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.all
	@exec $(BIN)/headrace bench --url http://$(HOST):$(PORT) $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# The stamps say what an environment holds; they are renewed when pyproject.toml changes.
$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.all

$(BIN)/python:
	@command -v '$(PYTHON)' >/dev/null || { echo 'Headrace needs Python 3.11 or newer, but there is no "$(PYTHON)". Install it, or name another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headrace needs Python 3.11 or newer, but $(PYTHON) is $$('$(PYTHON)' -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
