# `make demo` and `make test` need Python >= 3.11, git and make; they set up everything else in .venv themselves.

PYTHON  ?= python3
WORKERS ?= 2

BIN     := .venv/bin
# One thread a process: tests and measurements are reproducible, and workers do not fight for cores.
ONE     := OMP_NUM_THREADS=1
PYTEST  := $(ONE) $(BIN)/python -m pytest
PIP     := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps

.DEFAULT_GOAL := help
.PHONY: help .venv demo test check hooks format slow zoo fuzz gpu claims clients attack bench coverage docs sweep pins clean

help: ## Show this list
	@awk -F ':.*## ' '/^[.a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment in tiers: requirements/TIER.txt has exact versions with hashes, and no two tiers disagree on one.
TIERS           := demo test docs sweep clients
EXTRAS_demo     := train cli report
GROUPS_demo     := build
EXTRAS_test     := all bench
GROUPS_test     := dev
GROUPS_docs     := docs
EXTRAS_sweep    := sweep
GROUPS_clients  := clients
# On Linux, as measured; PyTorch's package there brings CUDA, 4 GB of it. Elsewhere it is a tenth.
SIZE_demo       := 5 GB
SIZE_test       := 6.8 GB with all tiers
SIZE_docs       := 0.3 GB
SIZE_sweep      := 0.3 GB
SIZE_clients    := 0.9 GB

# What requirements/demo.txt leaves out although PyTorch names it: a compiler of GPU kernels,
# 0.9 GB (PyTorch notes its absence in its log; the command line leaves the note out).
UNUSED_demo     := triton

.venv: .venv/test.ready ## Set up the environment for tests and development (done by itself when needed)

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "Secateurs needs Python 3.11 or newer, and '$(PYTHON)' was not found. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Secateurs needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.PRECIOUS: .venv/%.pins
.venv/%.pins: requirements/%.txt | .venv/bin/python
	@echo "Setting up .venv from $< ($(SIZE_$*); be patient the first time) ..."
	@$(PIP) --require-hashes -r $<
	@touch $@

.venv/%.ready: .venv/%.pins pyproject.toml
	@$(PIP) --no-build-isolation -e .
	@touch $@
	@echo ".venv is ready."

demo: .venv/demo.ready ## Prune a small network and look at the result (runs/demo)
	@$(BIN)/secateurs demo --out runs/demo

test: .venv/test.ready ## Run the laws, contracts and doctests
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
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m "slow and not zoo and not gpu and not claims and not clients"

fuzz: .venv ## Look for counter-examples with fresh random seeds
	@$(PYTEST) -n $(WORKERS) --hypothesis-profile=fuzz --timeout=0 -m "not zoo and not gpu and not claims"

gpu: .venv ## Run the tests that need a GPU
	@$(PYTEST) -m gpu

claims: .venv ## Reproduce published numbers (hours; needs data sets)
	@$(PYTEST) -m claims --timeout=0

clients: .venv/test.ready .venv/clients.pins ## Test with transformers, timm, ExecuTorch and Ultralytics (AGPL-3.0) as their users do (minutes)
	@YOLO_OFFLINE=true $(PYTEST) -m clients --timeout=1800 tests/clients tests/contracts/test_pages.py

attack: .venv ## Attack files, inputs and the clock of a kill: writes results/attack.md (an hour; fuzzes if atheris is installed)
	@$(ONE) $(BIN)/python -m tests.attack.record results/attack.md
	@$(ONE) $(BIN)/python -m tests.attack.guards results/guards.md

bench: .venv ## Measure speed and accuracy
	@$(ONE) $(BIN)/python benchmarks/run.py

coverage: .venv ## Which architectures and operators are covered: writes docs/coverage.md
	@$(ONE) $(BIN)/python -m secateurs.app.bench.coverage docs/coverage.md

sweep: .venv/test.ready .venv/sweep.pins ## Run a sweep on a local Ray, with a worker killed (minutes)
	@$(PYTEST) -m slow tests/end_to_end/test_sweep.py

docs: .venv/docs.pins ## Build the site into build/site, every link checked
	@$(BIN)/mkdocs build --strict --quiet

pins: ## Compile requirements/*.txt anew from pyproject.toml (needs uv)
	@for tier in test $(filter-out test,$(TIERS)); do $(MAKE) --no-print-directory pins-$$tier UPGRADE=--upgrade || exit 1; done

# The other tiers are held to the versions of `test`.
pins-%:
	@uv pip compile $(if $(EXTRAS_$*),pyproject.toml) $(EXTRAS_$*:%=--extra %) $(GROUPS_$*:%=--group %) $(UNUSED_$*:%=--no-emit-package %) \
	  $(if $(filter-out test,$*),--constraint requirements/test.txt) $(UPGRADE) --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet --output-file requirements/$*.txt

clean: ## Remove the environment, caches and build outputs (runs/ stays)
	@rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
