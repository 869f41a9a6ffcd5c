# Everything runs in .venv, which is made on first use and brought up to date when setup.py changes.
# Python: `make PYTHON=/path/to/python3.12 …`; workers of the tests: `make WORKERS=8 test`.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)
WORKERS ?= 2
DEMO ?= runs/demo

BIN := .venv/bin
# Byte code is compiled and kept on first import: compiling every file of every package takes longer than installing it.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
PYTEST := $(BIN)/python -m pytest
# Stamps, one for each growing set of packages: .venv/.made, .core, .dev, .parity
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow parity lint types format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/.core  ## train a small CLIP on emoji and report what it learned (resumes when interrupted)
	$(BIN)/mmjax train --config configs/clip/demo.py --workdir $(DEMO)
	@echo "Report: $(DEMO)/report.html; numbers: $(DEMO)/metrics.json"

test: .venv/.dev  ## all tests but the slow ones and parity
	$(PYTEST) -n $(WORKERS) -m "not slow and not parity"

test-slow: .venv/.dev  ## the tests that take minutes
	$(PYTEST) -n $(WORKERS) -m "slow and not parity" --durations=10

parity: .venv/.parity  ## live comparison with torch implementations
	$(PYTEST) -m parity --durations=10

lint: .venv/.dev  ## style, and whether the code is formatted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev  ## static types
	$(BIN)/mypy

format: .venv/.dev  ## format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and every cache; results in runs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find mmjax tests configs experiments -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@test -n "$(PYTHON)" || { \
	  echo "mmjax needs Python 3.11 or later and found none: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "mmjax needs Python 3.11 or later, and $(PYTHON) is not: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.core: setup.py .venv/.made
	$(PIP) --editable .
	@touch $@

.venv/.dev: setup.py .venv/.made
	$(PIP) --editable '.[dev]'
	@touch .venv/.core $@

.venv/.parity: setup.py .venv/.made
	$(PIP) --editable '.[dev,parity]'
	@touch .venv/.core .venv/.dev $@
