# Two commands on a fresh machine that has Python and make: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test check gpu-check install clean

demo: install  ## the whole way on a synthetic line; leaves demo/report.html
	$(BIN)/mapl-edge demo --out demo --overwrite

test: install check  ## lint, types and all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

gpu-check: install  ## engines and parity on this machine's GPU; says so where there is none
	$(BIN)/python bench/gpu_check.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo
