PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := budgetnas-demo
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all test-faults check lint types imports benchmarks clean

demo: $(VENV)/.installed
	mkdir -p $(DEMO)
	$(BIN)/budgetnas search digits-demo --storage sqlite:///$(DEMO)/demo.db
	$(BIN)/budgetnas report digits-demo --storage sqlite:///$(DEMO)/demo.db --out $(DEMO)/digits-demo-report.html

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-faults: $(VENV)/.installed-dev
	FAULTS=full $(BIN)/python -m pytest tests/faults

check: lint types imports

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

benchmarks: $(VENV)/.installed
	$(BIN)/python -m benchmarks.counting
	$(BIN)/python -m benchmarks.proposals
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.overhead --budget 50e3
	$(BIN)/python -m benchmarks.overhead --start

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
