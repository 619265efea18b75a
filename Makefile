# `make demo` and `make test` do everything on a machine that has Python 3.11 to 3.13 with venv, and make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all lint types clean
.DEFAULT_GOAL = demo

demo: $(VENV)/.core ## the whole flow on a small trained network
	$(BIN)/bnhw demo

test: $(VENV)/.dev ## the tests, under 15 minutes on two cores
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --hypothesis-profile repeatable

test-all: $(VENV)/.dev ## also those that are too long for `make test`, and new random examples
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

# The demo needs neither torch nor the development tools, so it is installed on its own in less than a minute.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) --editable '.[demo,images,torch,plot,dev]'
	touch $@
