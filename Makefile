# What people type here. "make" alone lists it.
SHELL := /bin/sh
BIN := .venv/bin
# Each worker runs its own NATS and Postgres; two suit a small machine.
PYTEST_WORKERS ?= 2
PYTEST ?=
# Of `make chaos`: how many rounds, the first one's seed, the page that gets the figures, where to keep failed rounds;
# COLD=1 starts every process by its command line.
ROUNDS ?= 200
SEED ?= 1
REPORT ?=
KEEP ?=
COLD ?=
# Of `make soak`: how many simulated hours; SEED is the day's.
HOURS ?= 10
# How many commands the placers race for at its end.
COMMANDS ?= 1000

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos soak check format bench docs schemas lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.stamp-dev ## Install everything for development into .venv (Python >= 3.11; no root)
	@echo "setup: .venv is ready; next: make demo, make test"

demo: .venv/.stamp-run ## Run the whole pipeline on real servers and a simulated fleet, then end
	@$(BIN)/shardbus demo

test: check ## Check, then run all tests (PYTEST="-k name" narrows them; SHARDBUS_REQUIRE_DOCKER=1 insists on Docker)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --session-timeout=2400 $(PYTEST)

chaos: .venv/.stamp-dev ## Play faults on real servers (ROUNDS=200 COMMANDS=1000 SEED=1 REPORT=docs/chaos.md KEEP=folder)
	PYTHONPATH=tests $(BIN)/python -m chaos --rounds $(ROUNDS) --seed $(SEED) \
		$(if $(REPORT),--report $(REPORT)) $(if $(KEEP),--keep $(KEEP)) $(if $(COLD),--cold)
	PYTHONPATH=tests $(BIN)/python -m chaos.race --commands $(COMMANDS) --seed $(SEED)

soak: .venv/.stamp-dev ## Simulate hours of a fleet whose nodes come and go, on the pure core (HOURS=10 SEED=1)
	SHARDBUS_SOAK_HOURS=$(HOURS) SHARDBUS_SOAK_SEED=$(SEED) \
		$(BIN)/python -m pytest -q tests/property/placer/test_soak.py -k the_fleet

check: .venv/.stamp-dev ## Format, lint, types, import boundaries, spelling, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python -m shardbus_schemas.export --check schemas
	$(BIN)/python -m shardbus_schemas.catalogue --check docs/reference/events.md
	$(BIN)/python -m shardbus_console.reference --check docs/reference

format: .venv/.stamp-dev ## Format the code, mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.stamp-dev ## Measure on the embedded servers and write docs/benchmarks.md (minutes)
	$(BIN)/python tests/benchmarks/run.py docs/benchmarks.md

docs: .venv/.stamp-dev ## Write the generated reference pages
	$(BIN)/python -m shardbus_schemas.catalogue docs/reference/events.md
	$(BIN)/python -m shardbus_console.reference docs/reference

schemas: .venv/.stamp-dev ## Export JSON Schema and AsyncAPI files from the code
	$(BIN)/python -m shardbus_schemas.export schemas

# --universal: one file for every platform and Python. No index is named in it, so it works with anyone's mirror.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	pyproject.toml --all-extras --group build
lock: .venv/.stamp-dev ## Lock the newest allowed versions (then: make setup test)
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade --group test --group check -c requirements.lock -o requirements-dev.lock
	@! grep -nE '://|--(extra-)?index-url|--find-links' requirements.lock requirements-dev.lock

clean: ## Remove caches and build products (.venv and your data stay)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find agents console eventstore infra placer schemas tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp-run: requirements.lock pyproject.toml infra/setup/install.sh
	@infra/setup/install.sh run

.venv/.stamp-dev: requirements-dev.lock requirements.lock pyproject.toml infra/setup/install.sh
	@infra/setup/install.sh dev
