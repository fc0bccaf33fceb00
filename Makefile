# What people type. Every target sets up what it needs; CI runs the same ones.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test faults setup lint format simulate mutants bench bench-query bench-ingest clean

BIN := .venv/bin
# Stamps: set up once, and again when the dependencies change.
RUNTIME := .venv/.ready-runtime
DEV := .venv/.ready-dev
BENCH := .venv-bench/.ready

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME)  ## Real traffic through the whole pipeline, ending in a reconciliation (under 2 minutes)
	@$(BIN)/rollup-engine demo

# Side by side, for most tests wait most of the time; the simulation takes what processor time the others leave.
LONG := tests/faults tests/acceptance tests/producers
test: $(DEV)  ## All tests, on real Kafka and PostgreSQL (about 14 minutes on two cores)
	@mkdir -p .cache
	@echo "Three runs side by side: first the simulation's output, then that of whole deployments, then of all others."
	@$(BIN)/python -m pytest $(LONG) > .cache/long.log 2>&1 & long=$$!; \
	$(BIN)/python -m pytest --ignore tests/simulation $(LONG:%=--ignore %) > .cache/tests.log 2>&1 & others=$$!; \
	nice $(BIN)/python -m pytest tests/simulation; simulation=$$?; \
	wait $$long; long=$$?; cat .cache/long.log; \
	wait $$others; others=$$?; cat .cache/tests.log; \
	exit $$((simulation | long | others))

faults: $(DEV)  ## The fault matrix on Apache Kafka: every row with 200,000 live events, one line each
	@$(BIN)/python -m tests.faults

setup: $(DEV)  ## The virtual environment .venv, with the development tools

lint: $(DEV)  ## Style, formatting, strict types, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(DEV)  ## Format the code, and mend what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

simulate: $(DEV)  ## Random schedules of faults on every core, for SECONDS (600)
	@$(BIN)/python -m tests.simulation --seconds $(or $(SECONDS),600)

mutants: $(DEV)  ## Takes the guards away one by one, and shows what of the suite goes red
	@$(BIN)/python -m tests.simulation.mutating

bench: $(DEV) $(BENCH)  ## Every benchmark beside its yardsticks, into docs/benchmarks.md (takes hours; see there)
	@for suite in end_to_end "end_to_end --kafka apache" growth scale_out freshness recovery footprint ingest "ingest --kafka apache" queries; do \
		$(BIN)/python -m benchmarks $$suite --json benchmarks/results.json || exit 1; \
	done
	@$(BIN)/python -m benchmarks.report

bench-query: $(DEV)  ## Metrics over 20 million partial rollups, with tiers and without (about 10 minutes)
	@$(BIN)/python -m benchmarks queries --json benchmarks/results.json

bench-ingest: $(DEV)  ## Events a second over HTTP, beside the same straight to Kafka, on both brokers (about 2 minutes)
	@for kafka in embedded apache; do \
		$(BIN)/python -m benchmarks ingest --kafka $$kafka --json benchmarks/results.json || exit 1; \
	done

clean:  ## Remove what these targets made (not the engine's state in .rollup-engine)
	rm -rf .venv .venv-bench .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh embedded
	@touch $(RUNTIME)

$(DEV): pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh embedded,dev
	@touch $(RUNTIME) $(DEV)

$(BENCH): benchmarks/requirements.txt | $(DEV)
	@echo "Setting up .venv-bench with the yardsticks, 2 GB: once, and again when their list changes." >&2
	@$(BIN)/python -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $(BENCH)
