# Needs make and Python 3.10 or newer. Everything else goes into .venv, on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-shapes test test-slow check lint types docs

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)
	@echo "Another Python than $(PYTHON): make PYTHON=python3.12 TARGET"

demo: $(VENV)/installed-demo ## generate icons, train VIS-GDINO and DINO-R1, find icons that they never saw
	$(BIN)/python tools/demo.py

demo-shapes: $(VENV)/installed-demo ## the same on the shapes world, where recipes of small data sets start
	$(BIN)/python tools/demo.py --world shapes

test: $(VENV)/installed-dev ## run the tests, without those that take more than 20 seconds each
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

test-slow: $(VENV)/installed-dev ## run the other tests: kills, memory over 10,000 predictions, plans, studies
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m slow

check: lint types docs test ## everything that must pass before a commit: style, types, documentation, tests

lint: $(VENV)/installed-dev ## check style, format and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell -D - -D .avoided_words.txt

types: $(VENV)/installed-dev ## check types of the core
	$(BIN)/mypy

docs: $(VENV)/installed-docs ## build the documentation in build/docs
	$(BIN)/mkdocs build --strict

# One stamp per extra; a change of the dependencies installs again.
$(VENV)/installed-%: setup.cfg pyproject.toml $(VENV)/created
	$(BIN)/python -m pip install -e '.[$*]'
	@touch $@

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.10 or newer; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

.SECONDARY:
