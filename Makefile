# make demo    distil a detector and a segmentor on the embedded data set
# make test    run the tests
# make lint    check style
# make docs    build the site into site/, strictly; for its search: python -m http.server -d site
# make test-foundation    the tests of foundation teachers, with transformers in a folder of its own
# PYTHON=      interpreter that makes the environment (3.10 to 3.12)
# VENV=        folder of the environment

VENV ?= .venv
PYTHON ?=
export VENV PYTHON
BIN := $(VENV)/bin

.PHONY: help env demo test test-foundation lint docs

help:
	@sed -n 's/^# //p' Makefile

env:
	@tools/setup_env.sh

demo: env
	@$(BIN)/python tools/demo.py

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Not in the environment itself: mmdet imports transformers wherever it finds it, at each start.
EXTRA := $(VENV)/foundation

test-foundation: env
	@[ -d $(EXTRA) ] || $(BIN)/python -m pip install --disable-pip-version-check --quiet \
		-c constraints.txt --target $(EXTRA) transformers
	PYTHONPATH=$(abspath $(EXTRA)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto \
		tests/families/test_foundation.py tests/test_configs.py -k "foundation or dinov2"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Not --quiet, under which warnings are not counted. The variable silences the theme's notice.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean
