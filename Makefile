# Two commands matter: `make demo` and `make test`. Each does its own set-up in .venv.
#
# ARGS       arguments of `make chaos`
# PYTHON     the interpreter to build .venv with (3.11 or newer)
# PROCESSES  how many processes `make prove` uses; SEED  of its first round
# PIP_ARGS   more arguments for pip, for instance an index that has torch's CPU builds

PYTHON   ?= python3
PIP_ARGS ?=
PROCESSES ?= 2
SEED     ?= 1
VENV     := .venv
BIN      := $(VENV)/bin
READY    := $(VENV)/.ready

# Tests start hundreds of processes, which would each compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz check fix prove chaos bench docs clean

help: ## show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(READY) ## MovieLens-100K from an empty folder to living recommendations (minutes)
	$(BIN)/twinspan demo

# Live tests kill processes and wait for others: after all others, two at a time. Those that measure
# how long somebody waits come last and alone.
test: $(READY) ## every test; needs no server, and uses those that answer on loopback
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not live"
	$(BIN)/python -m pytest -n 2 --maxschedchunk 1 -m "live and not alone"
	$(BIN)/python -m pytest -m alone

prove: $(READY) ## 5,000 random histories against the oracle; goes on where it stopped (an hour)
	$(BIN)/python tests/proof/prove.py --examples 5000 --processes $(PROCESSES) --seed $(SEED) --log .data/proved.jsonl

fuzz: $(READY) ## the generated tests with twenty times as many cases (FUZZ=n for another factor)
	TWINSPAN_TEST_FUZZ=$(or $(FUZZ),20) $(BIN)/python -m pytest tests/test_fuzz*.py

check: $(READY) ## format, lint, types, layers, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m indexer.cli.reference --check

fix: $(READY) ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## write the generated pages again
	$(BIN)/python -m indexer.cli.reference

chaos: $(READY) ## ten minutes in which everything dies, over each broker; ARGS="--minutes 1"
	$(BIN)/python tests/chaos.py $(ARGS)

bench: $(READY) ## every benchmark; writes docs/benchmarks.md (about half an hour)
	$(BIN)/python -m benchmarks

clean: ## remove what was built, not your data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch first and by its exact version, so that nothing else brings another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Twinspan needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "This Python has no venv. On Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $(READY)
