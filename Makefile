# `make demo` and `make test` set everything up. They share one environment, which holds the tested
# set: every package in the version that the tests passed with (configs/tested.txt).
PYTHON ?= python3
VENV ?= .venv
TESTED ?= configs/tested.txt
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint $(TESTED)

.PHONY: demo demo-vlmevalkit demo-agent demo-video test newest tested results lint clean

# Two embedded pairs on one task through lmms-eval's own command line: replay off, on, and random x.
# DEMO="--all" runs all 1,000 items, DEMO="--limit 50" fewer than the usual 200.
demo: $(VENV)/.installed
	$(BIN)/activation-replay demo $(DEMO)

# The same through VLMEvalKit's run script.
demo-vlmevalkit: $(VENV)/.installed
	$(BIN)/activation-replay demo --harness vlmevalkit --output results/demo-vlmevalkit $(DEMO)

# A tiny agent with a zoom tool, in whole conversations: without replay, with it, the control, the base.
demo-agent: $(VENV)/.installed
	$(BIN)/activation-replay run configs/pairs/demo_agent/run.yaml --output results/demo-agent \
		--limit 100 --batch-size 8 $(DEMO)

# A tiny model that has to compare the frames of clips: without replay, with it, the control, the base.
demo-video: $(VENV)/.installed
	$(BIN)/activation-replay run configs/pairs/demo_video/run.yaml --output results/demo-video \
		--batch-size 16 $(DEMO)

# Everything, the real harness included. TESTS="tests/replay_core" runs a part.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

# The same on the newest of everything, in an environment of its own made from nothing: shows what
# an upstream release breaks before users meet it.
newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest TESTED=/dev/null

# Make the newest of everything the tested set, once the tests have passed with it.
tested: newest
	sed -n '/^#/p' configs/tested.txt > configs/tested.new
	.venv-newest/bin/python -m pip freeze --all --exclude-editable >> configs/tested.new
	mv configs/tested.new configs/tested.txt

# Every study on the embedded pairs, configs/pairs/demo/RESULTS.md and its figures.
# RESULTS="--n 200" takes fewer items; a run that was stopped goes on where it was.
results: $(VENV)/.installed
	$(BIN)/python configs/pairs/demo/results.py $(RESULTS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(TESTED) | $(BIN)/python
	$(PIP) --upgrade pip
	$(PIP) --editable '.[all]'
	touch $@

$(VENV)/.installed-test: pyproject.toml $(TESTED) | $(BIN)/python
	$(PIP) --upgrade pip
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-newest results build dist
