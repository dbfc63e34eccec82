# make demo: from films to scores and a summary, on movies rendered for the purpose. make test: the tests.
# make soak: the long tests, then hours of kills, crashes and damaged files: each script of tests/soak with its defaults
# (--help explains them).
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# A Python that has no list of its own takes that of the newest.
CONSTRAINTS := $(firstword $(wildcard constraints/python$(VERSION).txt) $(lastword $(sort $(wildcard constraints/*.txt))))
BIN := .venv/bin

.PHONY: demo test soak lint format clean

.venv/demo-installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

.venv/test-installed: .venv/demo-installed
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[test]'
	touch $@

demo: .venv/demo-installed
	rm -rf demo
	$(BIN)/python -m avmsnet_jax.toy --output=demo/films
	$(BIN)/python prepare_data.py --dataset=movies --source=demo/films --output=demo/records --frame_size=48
	$(BIN)/python train.py --config=configs/demo.py --config.data.dir=demo/records --workdir=demo/run
	$(BIN)/python eval.py --config=configs/demo.py --config.data.dir=demo/records --checkpoint=demo/run --output=demo/results
	$(BIN)/python summarize.py demo/films/test/toy_18.mp4 --checkpoint=demo/run --output=demo/summaries

test: .venv/test-installed
	$(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=worksteal

demo/run:
	$(MAKE) demo

soak: .venv/test-installed demo/run
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m tests.soak.clean_venv
	$(BIN)/python -m tests.soak.mutated_files
	$(BIN)/python -m tests.soak.crash_preparing
	$(BIN)/python -m tests.soak.kill_preparing
	$(BIN)/python -m tests.soak.kill_training
	$(BIN)/python -m tests.soak.find_events --checkpoint=demo/run
	$(BIN)/python -m tests.soak.learn_from_gaze

lint: .venv/test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/test-installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv demo *.egg-info
