PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := budgetnas-demo
SITE := build/site
WHEEL := .venv-wheel
LOWEST := .venv-lowest-$(notdir $(PYTHON))
LOWEST_TESTS := $(patsubst %,tests/test_%.py,architecture_counts architecture_values budget_sampler bundle cli \
	constraint_filter dashboard data_folder data_folder_cache doctor export final network recipe replay report report_tables search_study \
	space specification state storage_engine storage_records train train_plain)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all test-faults test-lowest check lint types imports site dist wheel-demo benchmarks clean

demo: $(VENV)/.installed
	mkdir -p $(DEMO)
	$(BIN)/budgetnas search digits-demo --storage sqlite:///$(DEMO)/demo.db
	$(BIN)/budgetnas report digits-demo --storage sqlite:///$(DEMO)/demo.db --out $(DEMO)/digits-demo-report.html

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-faults: $(VENV)/.installed-dev
	FAULTS=full $(BIN)/python -m pytest tests/faults tests/test_benchmark_gpu.py

test-lowest: $(LOWEST)/.installed
	rm -rf $(LOWEST)/demo
	mkdir $(LOWEST)/demo
	cd $(LOWEST)/demo && ../bin/budgetnas count v2 resnet18
	cd $(LOWEST)/demo && ../bin/budgetnas search digits-demo --trials 4
	cd $(LOWEST)/demo && ../bin/budgetnas show digits-demo
	cd $(LOWEST)/demo && ../bin/budgetnas report digits-demo
	cd $(LOWEST)/demo && ../bin/budgetnas export digits-demo --run 1
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" -o filterwarnings=default $(LOWEST_TESTS)

check: lint types imports

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

site: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(SITE)

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build

wheel-demo: dist
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	mkdir $(WHEEL)/demo
	cd $(WHEEL)/demo && ../bin/budgetnas count v2 --budget 5e6
	cd $(WHEEL)/demo && ../bin/budgetnas search digits-demo
	cd $(WHEEL)/demo && ../bin/budgetnas report digits-demo

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

$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --extra test --resolution lowest-direct --no-build \
		--output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/lowest.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest-* $(WHEEL) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
