# make demo    distil a detector and a segmentor on the embedded data set
# make test    run the tests
# make lint    check style
# PYTHON=      interpreter that makes the environment (3.10 to 3.12)
# VENV=        folder of the environment

VENV ?= .venv
PYTHON ?=
export VENV PYTHON
BIN := $(VENV)/bin

.PHONY: help env demo test lint

help:
	@sed -n 's/^# //p' Makefile

env:
	@tools/setup_env.sh

demo: env
	@$(BIN)/python tools/demo.py

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
