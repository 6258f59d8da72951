# make demo | test | check | bench | docs: each makes the environment that it needs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench docs clean

demo: .venv/.demo  ## a broker, a camera and its alerts, in about a minute
	$(BIN)/maskfleet demo

test: .venv/.dev  ## all tests, four files at a time: most of them wait for something real
	$(BIN)/pytest -n 4 --dist loadfile

check: .venv/.dev  ## lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev  ## latency of models; frames per second beside the classic loop and AIZOO; as JSON (needs the data pack)
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/clips.py

docs: .venv/.dev  ## docs/protocol.md from the topics and messages, docs/settings.md from the settings
	$(BIN)/python docs/generate.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("MaskFleet needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/.demo

clean:
	rm -rf .venv build dist
