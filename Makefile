# Every command works from a fresh clone: the virtual environment is made when it is missing, and brought up to date when
# the package's requirements changed. PYTHON=python3.12 picks another Python, ARGS="-x tests/live/test_demo.py" passes arguments on.

PYTHON ?= python3
ARGS ?=
# Tests mostly wait for servers: a few at a time don't get in each other's way. All of one file run one after the other,
# those that wait most first (tests/conftest.py), so that no long file is left for the end.
WORKERS ?= 3
# How long a soak (600) or a fuzz (60) is.
SECONDS ?=

# Each process of a test reads bytecode that is there, instead of compiling the package and all tests again. The allocator
# is the usual one: Python's development mode looks for faults in C with a slow one, and there is no C here.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONMALLOC := default

VENV := .venv
# What setup.cfg lists for the unit tests: "dev" or, without all that they do not need, "unit".
EXTRA := dev
BIN := $(VENV)/bin

.PHONY: demo test test-unit test-pythons lint types docs servers chaos soak fuzz bench mutants audit constraints clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/dev.stamp
	PYTHONDEVMODE=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(ARGS)

# Without web servers, database servers and cache servers.
test-unit: $(VENV)/$(EXTRA).stamp
	BACKJOB_UNIT=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile -m "not live" tests/unit $(ARGS)

# The same on the oldest Python that is supported and on the newest here, each in an environment of its own.
test-pythons:
	pythons=$$(tests/machine/pythons) && for python in $$pythons; do \
		$(MAKE) --no-print-directory test-unit PYTHON=$$python VENV=.venv-$${python##*/python} EXTRA=unit || exit 1; done

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(ARGS)

types: $(VENV)/dev.stamp
	$(BIN)/mypy $(ARGS)

# A warning is an error, and so is a link that leads nowhere. Look at docs/_build/html/index.html.
docs: $(VENV)/dev.stamp
	$(BIN)/python -m sphinx -W --keep-going -n -b html -d docs/_build/doctrees docs docs/_build/html $(ARGS)

# docs/servers.md has what this finds; it needs all that tests/machine/install brings.
servers: $(VENV)/dev.stamp $(VENV)/test-compiled.stamp
	rm -f $(VENV)/matrix
	BACKJOB_CI=1 PYTHONDEVMODE=1 MATRIX_RECORD=$(CURDIR)/$(VENV)/matrix $(BIN)/python -m pytest tests/live/test_matrix.py -k test_server
	PYTHONPATH=tests $(BIN)/python -m support.servers_page $(VENV)/matrix

# Real servers under fire: docs/chaos.md has what this finds. ARGS="sync-sqlite --seed 1" picks a set-up and repeats a run.
chaos: $(VENV)/dev.stamp
	BACKJOB_CI=1 PYTHONPATH=tests $(BIN)/python -m chaos run $(ARGS)

# Random faults for as long as asked: SECONDS=3600 make soak ARGS=gevent-mariadb
soak: $(VENV)/dev.stamp
	BACKJOB_CI=1 PYTHONPATH=tests $(BIN)/python -m chaos soak $(or $(SECONDS),600) $(ARGS)

# Random input for all that strangers can write: tokens, answers, rows, cache entries. A fault is printed with what repeats
# it: ARGS="records --seed 1 --round 2".
fuzz: $(VENV)/dev.stamp
	BACKJOB_CI=1 PYTHONPATH=tests $(BIN)/python -m fuzz $(or $(SECONDS),60) $(ARGS)

# Known vulnerabilities of the versions in tests/constraints.txt. Needs the network.
audit: $(VENV)/dev.stamp
	tests/machine/audit $(ARGS)

# After a CI run: keeps the versions that it ran with.
constraints: $(VENV)/dev.stamp
	{ grep '^#' tests/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > $(VENV)/constraints
	mv $(VENV)/constraints tests/constraints.txt

bench: $(VENV)/dev.stamp
	$(BIN)/python tests/bench/bench.py $(ARGS)

mutants: $(VENV)/dev.stamp
	$(BIN)/python tests/mutants/run.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-* build dist docs/_build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs a few packages only; a newcomer does not wait for the others.
$(VENV)/%.stamp: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# pip is what a half-made environment lacks: Debian without python3-venv stops after making bin/python.
$(BIN)/pip:
	$(PYTHON) -m venv --clear $(VENV)
