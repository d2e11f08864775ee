# What one does with this repository. `make` alone lists the targets; CONTRIBUTING.md says more.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
# Each core runs a part of the suite, a file at a time; more than four at once would take too much memory.
IN_PARTS := -n logical --maxprocesses 4 --dist loadfile
# TORCH_INDEX_URL of the environment or the command line is passed on as it is: unset and empty differ.
export PYTHON VENV

.DEFAULT_GOAL := help
.PHONY: help setup setup-test quickstart test test-full test-gpu lint types walls format docs docs-check web pictures build bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## make the virtual environment with pinned versions
	@scripts/setup_environment.sh run

setup-test:
	@scripts/setup_environment.sh test

quickstart: setup ## tune the starter model on the bundled sample and show what it gained
	@$(RUN)/tunesmith quickstart

test: setup-test ## the fast suite, as CI runs it
	@$(RUN)/pytest $(IN_PARTS)

test-full: setup-test ## every test that needs no GPU, slow ones too; writes a report under docs/test-reports/
	@$(RUN)/python scripts/test_report.py

test-gpu: setup-test ## the tests that need a GPU
	@$(RUN)/pytest -m gpu

lint: setup-test ## ruff: rules and format
	@$(RUN)/ruff check
	@$(RUN)/ruff format --check

types: setup-test ## mypy, strict on all of src
	@$(RUN)/mypy

walls: setup-test ## import-linter: who may import whom
	@$(RUN)/lint-imports

format: setup-test ## let ruff format and fix what it can
	@$(RUN)/ruff check --fix
	@$(RUN)/ruff format

docs: setup-test ## write the generated pages anew
	@$(RUN)/python scripts/make_docs.py

docs-check: setup-test ## fail when a generated file is not current
	@$(RUN)/python scripts/make_docs.py --check
	@$(RUN)/python scripts/make_constraints.py --check

web: ## fetch the files of others that the pages of the service want, by npm and its lock file
	@cd web && npm ci --ignore-scripts --no-audit --no-fund
	@$(PYTHON) scripts/web_files.py

pictures: setup-test ## take pictures of the pages for docs/; needs chromium and `make web`
	@$(RUN)/python scripts/screenshots.py

build: setup-test ## wheel and source archive in dist/; needs `make web`, and says so
	@$(PYTHON) scripts/web_files.py --check
	@$(RUN)/python -m hatchling build

bench: setup-test ## tokens a second and peak memory of the main job
	@$(RUN)/python -m benchmarks.main_job

clean: ## remove the environment, build output and caches of tools; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache test-results
