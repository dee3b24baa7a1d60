# Every target does its own set-up and can be repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ALONE := tests/cluster tests/examples tests/kafka tests/postgres tests/processes
SOURCES := streamline connectors tests examples benchmarks tools

.PHONY: demo test check format bench clean help

help:
	@echo "make demo    generate 1 M events and run examples/spend_per_user.py on them"
	@echo "make test    run all tests"
	@echo "make check   format, lint, types, import rules, openings of modules, links in the docs"
	@echo "make format  put the code into the project's format"
	@echo "make bench   measure, as ratios in one run"
	@echo "make clean   remove everything that was made"

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python -m examples.demo

# Tests that start processes and servers of their own have both cores to themselves.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)

check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python -m tools.package_tree build/tree
	cd build/tree && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p streamline -p examples -p benchmarks -p tools
	cd build/tree && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/.importlinter --no-cache
	$(BIN)/python -m tools.check_imports
	$(BIN)/python -m tools.check_openings
	$(BIN)/python -m tools.check_links

format: $(STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache demo-output .streamline
