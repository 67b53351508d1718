# One command for each thing. Each makes the environment that it needs; all it takes is git, make and a Python of 3.11 or newer.
#
#   make demo           run the demo: an instrumented program, its traces, what it cost, and how its budget stopped it
#   make test           run every check and every test; CHECKS= runs the tests only
#   make check          run the static checks only: ruff, mypy, import-linter
#   make docs           build the documentation, strictly
#   make bench          measure what a call, a chunk, a span and a price take, and what a slow exporter costs
#   make bench-budgets  measure budgets: do they hold, who starves, what they take; PEERS=--peers puts other guards beside
#   make receivers      send a run to real receivers (Phoenix, MLflow, oteltap), read it back and compare; heavy, not in test
#   make client-suite   run openai's own tests bare and instrumented, and compare how they end (half an hour)
#   make compat         call a model through each library on top of the client, and compare with what was billed
#   make clean          delete what the others made
#
# The versions to test with:  make test OPENAI='openai<3'      the newest openai below 3
#                             make test LOWEST=1               the lowest version of each dependency that is allowed
#                             make test PYTHON=python3.12 VENV=.venv-312
#                             make client-suite OPENAI='openai==2.54.0'     make compat LIBRARIES='dspy litellm'
# Each of the first two has an environment of its own beside `.venv`.

PYTHONS := python3.14 python3.13 python3.12 python3.11 python3 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && command -v $$p && break; done)
OPENAI ?=
LIBRARIES ?=
LOWEST ?=
CHECKS ?= check docs
# A file's tests run in one process, the files in as many as there are cores.
PYTEST ?= -n auto --dist loadfile
RECEIVERS ?=
PEERS ?=

variant := $(if $(LOWEST),-lowest)$(if $(OPENAI),-$(subst <,-below-,$(subst >,-above-,$(subst =,-is-,$(OPENAI)))))
VENV ?= .venv$(variant)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
GROUP := $(if $(strip $(CHECKS)),dev,test)
CONSTRAINED := $(if $(LOWEST),--constraint $(VENV)/lowest.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench bench-budgets receivers client-suite compat clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# -- environments ------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python of 3.11 or newer was found: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --no-compile --editable '.[openai]'
	@touch $@

$(VENV)/.test $(VENV)/.dev: pyproject.toml tests/lowest.py | $(BIN)/python
	$(PIP) install --upgrade 'pip>=25.1' # for --group
	$(BIN)/python tests/lowest.py > $(VENV)/lowest.txt
	$(PIP) install --upgrade --upgrade-strategy eager $(CONSTRAINED) \
		--editable '.[observability,pytest]' $(if $(OPENAI),'$(OPENAI)') --group $(notdir $(subst .,,$@))
	@touch $@

# -- commands ----------------------------------------------------------------------------------------------------------

demo: $(VENV)/.demo
	@$(BIN)/rlm-obs demo

# Tests start Python some thousand times: where bytecode is not written, each of these compiles all of it.
test: $(VENV)/.$(GROUP) $(CHECKS)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.pairs
	$(BIN)/python -m benchmarks.delivery

bench-budgets: $(VENV)/.dev
	$(BIN)/python -m benchmarks.budgets $(PEERS)

receivers: $(VENV)/.test
	$(BIN)/python -m tests.receivers $(RECEIVERS)

client-suite: # its environments, and compat's, are .venv-suite-*: the commands make them
	$(PYTHON) -m tests.suites.client $(if $(OPENAI),'$(OPENAI)')

compat:
	$(PYTHON) -m tests.suites.compat $(LIBRARIES)

clean:
	rm -rf .venv .venv-* build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f rlm_obs.jsonl rlm_obs_demo.jsonl
