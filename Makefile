# `make demo` and `make test` need Python >= 3.11, git and make; they set up everything else in .venv themselves.

PYTHON  ?= python3
WORKERS ?= 2

BIN     := .venv/bin
# One thread a process: tests and measurements are reproducible, and workers do not fight for cores.
ONE     := OMP_NUM_THREADS=1
PYTEST  := $(ONE) $(BIN)/python -m pytest
PIP     := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps

.DEFAULT_GOAL := help
.PHONY: help .venv demo test check hooks format slow zoo fuzz gpu claims attack bench coverage pins clean

help: ## Show this list
	@awk -F ':.*## ' '/^[.a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: .venv/ready ## Set up the environment (done by itself when needed)

.venv/pins: requirements.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "Secateurs needs Python 3.11 or newer, and '$(PYTHON)' was not found. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Secateurs needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv from requirements.txt (a few GB the first time, mostly PyTorch; be patient) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements.txt
	@touch $@

.venv/ready: .venv/pins pyproject.toml
	@$(PIP) --no-build-isolation -e .
	@touch $@
	@echo ".venv is ready."

demo: .venv ## Prune a small network and look at the result (runs/demo)
	@$(BIN)/secateurs demo --out runs/demo

test: .venv ## Run the laws, contracts and doctests
	@$(PYTEST) -n $(WORKERS)

check: .venv ## Lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

hooks: .venv ## Run the linter and the type checker on every commit (once; needs pre-commit)
	@$(BIN)/python -m pip --disable-pip-version-check install -qq pre-commit
	@$(BIN)/pre-commit install

format: .venv ## Format, and repair what the linter can
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/ruff format .

zoo: .venv ## Run the laws over many real architectures (minutes)
	@$(PYTEST) -n $(WORKERS) -m "zoo or slow"

slow: .venv ## Run the slow tests that need no other data (half an hour)
	@$(PYTEST) -n $(WORKERS) -m "slow and not zoo and not gpu and not claims"

fuzz: .venv ## Look for counter-examples with fresh random seeds
	@$(PYTEST) -n $(WORKERS) --hypothesis-profile=fuzz --timeout=0 -m "not zoo and not gpu and not claims"

gpu: .venv ## Run the tests that need a GPU
	@$(PYTEST) -m gpu

claims: .venv ## Reproduce published numbers (hours; needs data sets)
	@$(PYTEST) -m claims --timeout=0

attack: .venv ## Attack files, inputs and the clock of a kill: writes results/attack.md (half an hour; fuzzes if atheris is installed)
	@$(ONE) $(BIN)/python -m tests.attack.record results/attack.md

bench: .venv ## Measure speed and accuracy
	@$(ONE) $(BIN)/python benchmarks/run.py

coverage: .venv ## Which architectures and operators are covered: writes docs/coverage.md
	@$(ONE) $(BIN)/python -m secateurs.app.bench.coverage docs/coverage.md

pins: .venv ## Compile requirements.txt anew from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --fork-strategy fewest \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --upgrade --quiet --output-file requirements.txt

clean: ## Remove the environment, caches and build outputs (runs/ stays)
	@rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
