# SPDX-License-Identifier: Apache-2.0

PYTHON ?= python3
CONFIG ?=
# The long ones first, so that no worker is left with one at the end.
TESTS ?= tests/packaging tests/test_services.py tests/model tests/functional tests/docs tests/simulation tests/unit
PYTEST_ARGS ?=
WORKERS ?= 5
SUDO ?=
BENCHMARK_ARGS ?=
SIMULATION_ARGS ?=
LOWEST_TESTS ?= tests/unit tests/functional/test_service.py tests/functional/test_configuration.py \
	tests/functional/test_check.py tests/functional/test_metrics.py

BIN = .venv/bin
# Most tests wait for servers and programs, so there are more workers than processors.
PARALLEL = --numprocesses=$(WORKERS) --dist=worksteal --durations=20
PIP = $(BIN)/pip install -qq --disable-pip-version-check
EXTRAS = [docs,mysql,postgresql,test]
# A dot on stderr each second while a command runs.
WITH_DOTS = while sleep 1; do printf . >&2; done & dots=$$!; $(1); code=$$?; \
	kill $$dots; echo >&2; exit $$code
RELEASES = oldest 29 30 31 32 current
GLANCES = .venv-glance-current/.installed .venv-glance-oldest/.installed
CODE = $(foreach d,watcher tests tools benchmarks,$(if $(wildcard $(d)/*.py),$(d)))

.DEFAULT_GOAL = help
.PHONY: help demo run docs unit test test-large test-lowest coverage acceptance soak chaos benchmark \
	simulation dashboard versions lint services session completion sample dist deb clean .venv

help:  ## Show the targets
	@sed -n 's/^\([a-z.-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/.installed  ## Watch the program work, without any other service
	@$(BIN)/python tools/demo.py

run: .venv/.installed  ## Run the program: make run CONFIG=/path/to/the.conf
	@test -n "$(CONFIG)" || { echo "Say which configuration: make run CONFIG=/path" >&2; exit 2; }
	@$(BIN)/glance-staging-watcher --config-file "$(CONFIG)"

unit: .venv/.test  ## Run the unit tests that need no server, in less than a minute
	@$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m 'not server' $(PYTEST_ARGS) tests/unit

test: services  ## Run all checks and tests; TESTS=tests/test_x.py PYTEST_ARGS=-x narrow them
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest $(PARALLEL) -m 'not large' $(PYTEST_ARGS) $(TESTS)

test-large: services  ## Run the tests that need the machine to themselves, one after another
	@$(MAKE) --silent --no-print-directory .venv/.test
	@$(BIN)/python -m pytest --durations=20 -m large $(PYTEST_ARGS) $(TESTS)

test-lowest: services  ## Test with the lowest versions of the dependencies that setup.cfg allows
	@$(MAKE) --no-print-directory .venv-lowest/.installed
	@.venv-lowest/bin/python -m pytest $(PARALLEL) -m 'not large' $(PYTEST_ARGS) $(LOWEST_TESTS)

coverage: services  ## Run the tests as make test does, and show which branches of watcher/ they miss
	@$(MAKE) --silent --no-print-directory .venv/.test
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(PARALLEL) -m 'not large' $(PYTEST_ARGS) $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

acceptance: services  ## Test beside real Glances, and against Glance's own cleaner
	@$(MAKE) --silent --no-print-directory .venv/.test $(GLANCES)
	@$(BIN)/python -m pytest $(PYTEST_ARGS) tests/acceptance

versions: services  ## Write docs/versions.md: test with each Glance, Python, lowest and newest libraries
	@$(MAKE) --silent --no-print-directory .venv/.test $(RELEASES:%=.venv-glance-%/.installed)
	@for release in $(RELEASES); do \
		$(BIN)/python -m pytest -p tests.record -m quick --release $$release tests/acceptance || exit; done
	@PYTEST_ADDOPTS="-p tests.record" $(MAKE) --no-print-directory test test-lowest
	@PYTEST_ADDOPTS="-p tests.record" tox -f py3

soak: services  ## Many clients of two Glances for 15 minutes
	@$(MAKE) --silent --no-print-directory .venv/.test $(GLANCES)
	@SOAK_SECONDS=900 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/acceptance/test_soak.py

chaos: services  ## Faults of everything at random for 30 minutes; CHAOS_SECONDS, CHAOS_SEED change that
	@$(MAKE) --silent --no-print-directory .venv/.test
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-1800} $(BIN)/python -m pytest -s $(PYTEST_ARGS) tests/functional/test_chaos.py

benchmark: services  ## Measure against Glance's cleaner and the limits; BENCHMARK_ARGS=--quick
	@$(MAKE) --no-print-directory .venv-benchmark/.installed
	@.venv-benchmark/bin/python -m benchmarks $(BENCHMARK_ARGS)

simulation: .venv-benchmark/.installed  ## Simulate 1,000 hosts; SIMULATION_ARGS='--only loss'
	@PYTHONHASHSEED=0 .venv-benchmark/bin/python -m benchmarks.simulation $(SIMULATION_ARGS)

dashboard: services .venv-benchmark/.installed  ## Draw docs/dashboard.svg from a real run
	@.venv-benchmark/bin/python -m benchmarks.dashboard

lint: .venv/.test  ## Check style, types, the direction of imports, and words
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy --strict --explicit-package-bases $(CODE)
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/codespell
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/check-words

services:  ## Install the servers which the tests need, from Debian's packages; as user with SUDO=sudo
	@PYTHON="$(PYTHON)" SUDO="$(SUDO)" tools/install-services

docs: .venv/.test  ## Build the documentation into docs/_build/html
	@$(BIN)/python -m sphinx -q -n -W --keep-going -b html docs docs/_build/html

session: .venv/.installed  ## Draw docs/session.svg from a real run
	@$(BIN)/python -m tools.draw_session

completion: .venv/.installed  ## Write the completion of bash, fish and zsh
	@$(BIN)/python -m tools.completion

sample: .venv/.installed  ## Write the sample configuration
	@$(BIN)/oslo-config-generator --namespace glance-staging-watcher \
		--output-file etc/glance-staging-watcher.conf.sample

dist: .venv/.test  ## Build the sdist and the wheel, into dist/
	@$(BIN)/python -m build --outdir dist

deb:  ## Build the Debian package on Debian 13, into dist/; needs no environment
	@tools/build-deb dist

clean:  ## Remove the environment and all that was generated
	rm -rf .venv .venv-benchmark .venv-lowest .venv-glance-* .tox .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .coverage .coverage.* build dist docs/_build *.egg-info
	find watcher tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.venv: .venv/.test  ## Create the environment with everything for the tests

.venv/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create environments; on Debian: apt install python3-venv" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || { echo "Creating the Python environment .venv" >&2; $(PYTHON) -m venv .venv; }
	@printf "Installing the program and its libraries, a minute or two " >&2
	@$(call WITH_DOTS,$(PIP) --editable .)
	@touch $@

.venv/.test: .venv/.installed
	@printf "Installing the libraries of the tests " >&2
	@$(call WITH_DOTS,$(PIP) --editable '.$(EXTRAS)')
	@touch $@

.venv-glance-%/.installed: tests/acceptance/glance-%.txt
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

.venv-benchmark/.installed: benchmarks/requirements.txt setup.cfg pyproject.toml
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -qq --disable-pip-version-check --editable '.[metrics,mysql,postgresql]' \
		--requirement $<
	@touch $@

# Test tools are the newest: their bounds are for convenience only.
.venv-lowest/.installed: setup.cfg pyproject.toml
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -qq --disable-pip-version-check uv
	@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --reinstall --resolution lowest-direct \
		--editable '.[kafka,metrics,mysql,postgresql]'
	@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --editable '.[kafka,metrics,mysql,postgresql,test]'
	@touch $@
