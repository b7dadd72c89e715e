# Everything a newcomer runs. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format bench bench-full soak lock clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## create .venv with everything, and .venv/bin/sekisho

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m deploy.precompile
	@touch $@

demo: setup ## broker, simulated data centre, workers, lake and findings, in under three minutes
	$(BIN)/sekisho demo

test: setup ## all but the longest tests; what an optional part is missing for is skipped with its reason
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: setup ## the whole kill and power-cut matrices, more seeds through Kafka, every timeline (ten minutes)
	$(BIN)/python -m pytest $(PARALLEL) -m slow

lint: setup ## formatting, lint, strict types, rule corpus
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sekisho rules lint

format: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: setup ## a million events through real Kafka under twenty kills (seven minutes)
	$(BIN)/python -m tests.soak

bench: $(VENV)/.bench ## the path of an event measured, and the chart of the README (under 20 minutes; needs Java 17 and Maven)
	$(BIN)/python -m benchmarks.everything

bench-full: $(VENV)/.bench ## all benchmarks at full size (hours)
	$(BIN)/python -m benchmarks.everything --full

bench-%: $(VENV)/.bench ## one benchmark: peers, stages, scale, latency, workers, restart, queries, scan, reconciler, reconciler_latency
	$(BIN)/python -m benchmarks $*

$(VENV)/.bench: setup requirements/bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

lock: setup ## resolve the dependencies again (with hashes, without index addresses)
	for extra in runtime dev bench; do $(BIN)/python deploy/lock.py $$extra; done

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info
