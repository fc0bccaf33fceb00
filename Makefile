# What people type. Every target sets up what it needs; CI runs the same ones.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test setup lint format bench clean

BIN := .venv/bin
# Stamps: set up once, and again when the dependencies change.
RUNTIME := .venv/.ready-runtime
DEV := .venv/.ready-dev

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME)  ## Real traffic through the whole pipeline, ending in a reconciliation (under 2 minutes)
	@$(BIN)/rollup-engine demo

test: $(DEV)  ## All tests, on real Kafka and PostgreSQL (under 10 minutes)
	@$(BIN)/python -m pytest

setup: $(DEV)  ## The virtual environment .venv, with the development tools

lint: $(DEV)  ## Style, formatting, strict types, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(DEV)  ## Format the code, and mend what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(DEV)  ## Events per second of the whole path, beside a plain read of the same topic
	@$(BIN)/python -m benchmarks.end_to_end

clean:  ## Remove what these targets made (not the engine's state in .rollup-engine)
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh embedded
	@touch $(RUNTIME)

$(DEV): pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh embedded,dev
	@touch $(RUNTIME) $(DEV)
