# make train, make test: each sets everything up first, in .venv, from the hash-checked requirements.txt.
# With uv where it is installed, else with venv and pip. Needs Python 3.10 or newer.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: help setup train test lint clean lock pictures

help:
	@echo "make train [ARGS='model=cifar10']   set up, then python train.py model=mnist optimizer=adam"
	@echo "make test  [ARGS='-k loader']       set up, then the tests"
	@echo "make setup | lint | clean | lock    .venv | ruff and mypy | remove what was made | renew the lock"
	@echo "make pictures                       the README's pictures, from real runs"

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@rm -f $@
ifneq ($(UV),)
	$(UV) venv --quiet --allow-existing --python '>=3.10' --python-preference system .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "smallvision needs Python 3.10 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@# Compiled bytecode halves the time to the first step.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib src >/dev/null 2>&1 || true
	@touch $@

train: setup
	$(BIN)/python train.py model=mnist optimizer=adam $(ARGS)

# With bytecode kept, also where the environment says otherwise: two workers and many processes import the same.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The README's pictures, from real runs; needs Chromium. DATA: where the data sets lie.
DATA ?= data
pictures: setup
	$(BIN)/python docs/pictures.py $(DATA)

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Any Python from 3.10 on, any platform; the newest torch that has wheels for all of them.
lock:
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --only-binary torch --extra export --extra serve --group dev pyproject.toml -o requirements.txt
