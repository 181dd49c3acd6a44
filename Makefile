# Two targets set everything up: `make demo` and `make test`. Both share one environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-vlmevalkit test results lint clean

# The embedded pair on its task through lmms-eval's own command line, replay off and on.
# DEMO="--all" runs all 1,000 items, DEMO="--limit 50" fewer than the usual 200.
demo: $(VENV)/.installed
	$(BIN)/activation-replay demo $(DEMO)

# The same through VLMEvalKit's run script.
demo-vlmevalkit: $(VENV)/.installed
	$(BIN)/activation-replay demo --harness vlmevalkit --output results/demo-vlmevalkit $(DEMO)

# Everything, the real harness included. TESTS="tests/replay_core" runs a part.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

# Every study on the embedded pairs, configs/pairs/demo/RESULTS.md and its figures.
# RESULTS="--n 200" takes fewer items; a run that was stopped goes on where it was.
results: $(VENV)/.installed
	$(BIN)/python -m replay_adapters.studies.results $(RESULTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) results build dist
