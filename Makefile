# On a machine with Python 3.11 or later, git and make, each target sets up what it needs: a virtual environment in
# .venv with the dependencies, done again only when pyproject.toml changed.
#
#   make demo            serves the example app and tells a drill against it as a story; KEEP=1 leaves it up;
#                        CLUSTER=sqlite: on one node with four workers, in the place of three nodes
#   make test            ruff, mypy, pytest
#   make bench           the benchmarks
#   make prove           the simulations, with many seeds each: SEEDS=100000; and whole nodes, with fewer: HISTORIES=200
#   make lint, format    the checkers alone; format mends what can be mended
#   make clean           removes everything that was made
#
# PYTHON=python3.12 takes another Python.

PYTHON ?= python3
SEEDS ?= 100000
HISTORIES ?= 200
CLUSTER ?= peers
BIN := .venv/bin

.PHONY: demo test bench prove lint format clean

demo: .venv/demo.stamp
	@CLUSTER=$(CLUSTER) $(BIN)/python -m example_app

# pytest runs whatever the checkers found, and has the last word; both must be content.
test: .venv/test.stamp
	@$(MAKE) --no-print-directory lint || failed=1; $(BIN)/python -m pytest && exit $${failed:-0}

bench: .venv/bench.stamp
	@$(BIN)/python -m tests.benchmarks

prove: .venv/test.stamp
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)
	@RANDOM_HISTORIES=$(HISTORIES) $(BIN)/python -m pytest -q tests/cluster/test_random.py

lint: .venv/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/test.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each dependency group of pyproject.toml.
.venv/%.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing what 'make $*' needs ..."
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	@$(BIN)/python -m pip install --quiet --editable . --group $*
	@touch $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install it:"; \
		echo "  apt-get install -y python3 python3-venv"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V), and 3.11 is the least. Install a newer one, or name one: make PYTHON=python3.12"; \
		echo "  apt-get install -y python3.11 python3.11-venv"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments yet. Install what it lacks:"; \
		echo "  apt-get install -y $(notdir $(PYTHON))-venv"; exit 1; } >&2
	@$(PYTHON) -m venv --clear .venv
