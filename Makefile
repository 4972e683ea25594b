# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= config.yaml
# More than there are cores: most tests wait.
WORKERS := 6
# Tests and benchmarks start many processes: each would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-postgresql serve lint coverage bench copies format schema docs clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed ## Run the demo: about 20 seconds on an idle machine; LEDGER=postgresql://…: with that ledger; KEEP=1: leaves the dashboard open
	$(BIN)/gitlab-reconciler demo $(if $(LEDGER),--ledger "$(LEDGER)") $(if $(KEEP),--keep)

test: $(VENV)/.installed ## Run all tests, those from end to end with SQLite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test-postgresql: $(VENV)/.installed ## Run the end-to-end tests with ledgers in PostgreSQL
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --ledger postgresql

serve: $(VENV)/.installed ## Run the service with CONFIG (config.yaml)
	$(BIN)/gitlab-reconciler serve --config $(CONFIG)

lint: $(VENV)/.installed ## Style, types, spelling and links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m tests.support.links

coverage: $(VENV)/.installed ## Run all tests and report which branches they miss: takes about twice as long as without
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --timeout 480 --cov --ledger both

format: $(VENV)/.installed ## Fix the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## Measure, and print the table of docs/benchmarks.md; QUICK=1: in two minutes
	$(BIN)/python -m benchmarks

copies: $(VENV)/.installed ## Run three copies under load with faults; DURATION=seconds (120), SEED=number (1) chooses the faults
	$(BIN)/python -m tests.soak

schema: $(VENV)/.installed ## Regenerate docs/config.schema.json
	$(BIN)/gitlab-reconciler schema --output docs/config.schema.json

docs: $(VENV)/.installed ## Regenerate what in docs/ is made from the code
	UPDATE_DOCS=1 $(BIN)/python -m pytest tests/test_docs.py tests/reconciler/reconstruct tests/reconciler/sources/test_system_notes.py

clean: ## Remove what was made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
