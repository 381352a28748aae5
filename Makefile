# On a machine with Python 3.11 or later, git and make, each target sets up what it needs: a virtual environment in
# .venv with the dependencies, renewed only when pyproject.toml changed.
#
#   make demo            serves the example app and tells a drill against it as a story; KEEP=1 leaves it up;
#                        CLUSTER=etcd: beside an etcd of three members, which is started for it
#                        CLUSTER=sqlite: on one node with four workers instead of three nodes
#   make test            ruff, mypy, and the whole of pytest, in JOBS=6 processes side by side
#   make test-fast       the rules and the edge, without real servers and on asyncio alone, in less than a minute
#   make test-all        pytest with Python 3.11, 3.12 and 3.13, each that is on this machine: in the path or of pyenv
#   make test-lowest     the edge, tokens and calls between nodes with the lowest versions that pyproject.toml permits
#   make bench           the benchmarks, and the picture docs/speed.svg
#   make prove           what takes longer than a test may: random schedules of the simulation (SEEDS=100000), all orders of few
#                        events (STATES=500000 at most for each question), whole nodes with fewer seeds (HISTORIES=200), fuzzed
#                        requests with canaries through the whole middleware (FUZZED=1000000), the
#                        instances of costly tests that make test leaves out, properties with more examples, real
#                        processes in trouble, for a quarter of an hour, with the times that log-outs took,
#                        rolling restarts behind nginx and HAProxy; users at nodes that are killed, through the client library,
#                        a balancer, and the clients of other packages;
#                        and the suites of other packages with our middleware in the place of Starlette's
#   make lint, format    the checkers alone; format mends what can be mended
#   make hooks           installs a git hook that runs the checkers before each commit
#   make clean           removes everything that was made
#
# PYTHON=python3.12 takes another Python.

PYTHON ?= python3
JOBS ?= 6
SEEDS ?= 100000
STATES ?= 500000
HISTORIES ?= 200
FUZZED ?= 1000000
CLUSTER ?= peers
PYTHONS ?= python3.11 python3.12 python3.13 $(wildcard $(HOME)/.pyenv/versions/3.1[123].*/bin/python3)
VENV ?= .venv
BIN := $(VENV)/bin

# The tests start many servers, and each of them would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Tests of real servers mostly wait: with four processes two cores are half idle meanwhile. Each file's real servers stay in one process.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: demo test test-fast test-all test-lowest bench prove lint format hooks clean

demo: $(VENV)/demo.stamp
	@CLUSTER=$(CLUSTER) $(BIN)/python -m example_app

# The checkers run beside pytest, in one process of the JOBS until they are done. Both run to their end, and both must be content.
test: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory lint > $(VENV)/lint.out 2>&1 & lint=$$!; \
		$(PYTEST) || failed=1; wait $$lint || failed=1; cat $(VENV)/lint.out; exit $${failed:-0}

test-fast: $(VENV)/test.stamp
	@$(BIN)/python -m pytest -n auto -q --hypothesis-profile=fast -m 'not real and not long' -k 'not trio' tests/core tests/asgi tests/session tests/settings tests/node tests/test_layers.py

# Each Python gets an environment of its own, beside the one that the other targets use.
test-all:
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys, ensurepip, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
		case " $$ran " in *" $$version "*) continue;; esac; ran="$$ran $$version"; \
		echo "$$($$python -V), $$(command -v $$python)"; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=.venv-$$version pytest || failed="$$failed $$version"; \
	done; \
	test -n "$$ran" || { echo "There is no Python here for which there are claims." >&2; exit 1; }; \
	echo "Ran:$$ran. Failed:$${failed:- none}."; test -z "$$failed"

.PHONY: pytest
pytest: $(VENV)/test.stamp
	@$(PYTEST)

# They get an environment of their own, too. Most of what is in it is never imported, so that nothing is compiled in advance.
test-lowest:
	@$(MAKE) --no-print-directory VENV=.venv-lowest LOWEST='--no-compile --constraint .venv-lowest/lowest.txt' lowest

.PHONY: lowest
lowest: $(VENV)/edge.stamp
	@$(BIN)/python -m pytest -n auto -q -m 'not real and not long' -k 'not trio' --ignore tests/asgi/test_hostile_requests.py \
		tests/core/token tests/asgi tests/session tests/peering

bench: $(VENV)/bench.stamp
	@$(BIN)/python -m tests.benchmarks --picture docs/speed.svg

prove: $(VENV)/test.stamp
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)
	@$(BIN)/python -m tests.model --states $(STATES)
	@MODEL_WALKS=$(HISTORIES) $(BIN)/python -m pytest -q -m "prove or not prove" tests/model -k dropped_state
	@RANDOM_HISTORIES=$(HISTORIES) $(BIN)/python -m pytest -q -m "prove or not prove" tests/cluster/test_random.py tests/cluster/test_etcd_random.py
	@$(BIN)/python -m pytest -q -p tests.without_backends -k "not memory" tests/core tests/test_manager.py
	@FUZZED_REQUESTS=$(FUZZED) $(BIN)/python -m pytest -q tests/asgi/test_fuzzed_requests.py
	@$(PYTEST) -q -m prove
	@$(PYTEST) -q -m hypothesis --hypothesis-profile=many
	@$(BIN)/python -m tests.histories
	@$(BIN)/python -m tests.drills
	@$(BIN)/python -m tests.suites .venv-suites

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/test.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

hooks: $(VENV)/dev.stamp
	@$(BIN)/pre-commit install --config .ci/pre-commit-config.yaml

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define PINS
import tomllib
for one in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    print(one.replace(">=", "=="))
endef
export PINS

# One stamp for each dependency group of pyproject.toml.
$(VENV)/%.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing the group '$*' of pyproject.toml ..."
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	@$(BIN)/python -c "$$PINS" > $(VENV)/lowest.txt
	@$(BIN)/python -m pip install --quiet --editable . --group $* $(LOWEST)
	@touch $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install it:"; \
		echo "  apt-get install -y python3 python3-venv"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V), and 3.11 is the least. Install a newer one, or name one: make PYTHON=python3.12"; \
		echo "  apt-get install -y python3.11 python3.11-venv"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments yet. Install what it lacks:"; \
		echo "  apt-get install -y $(notdir $(PYTHON))-venv"; exit 1; } >&2
	@$(PYTHON) -m venv --clear $(VENV)
