# Everything a newcomer types. Each target makes its own virtual environment (.venv) first; the
# second time that costs milliseconds. `make help` lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo test unit main-job faults fuzz bench lint format wheel wheelhouse image constraints molecule clean distclean

# Extra arguments for pytest: make test ARGS="-k journal -x"
ARGS ?=
PY := .venv/bin/python
# For `make fuzz`: seconds for all targets together, and one target's name or nothing for all.
SECONDS ?= 120
TARGET ?=
# For `make wheelhouse`: which Python and machine it is for, the oldest C library it must run on, and
# the Ansible collection's file where it is built already.
PYTHON ?= 3.11
ARCH ?= x86_64
GLIBC ?= 2.28
COLLECTION ?=
GALAXY := .cache/ansible-galaxy/bin/ansible-galaxy
# The fault tests: LONG=1 for the long schedule, SEED=n for the plans of an earlier run
export LONG SEED

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo:  ## Run the two-minute demonstration: a hub, an endpoint, some functions
	@.ci/environment demo
	@.venv/bin/cep demo

test:  ## Run all tests, unit and integration, and print the time of each part
	@.ci/environment dev
	@$(PY) -m pytest $(ARGS)

unit:  ## Run the unit tests only
	@.ci/environment dev
	@$(PY) -m pytest tests/unit $(ARGS)

main-job:  ## Run the tests of the main job only: configure, start, run functions, stop
	@.ci/environment dev
	@$(PY) -m pytest -m main_job $(ARGS)

faults:  ## Run what must not lose a task, and print the table; LONG=1 and SEED=n are understood
	@.ci/environment dev
	@$(PY) -m pytest -m faults $(ARGS)

fuzz:  ## Feed the parsers mutated input and report inputs tried: make fuzz SECONDS=600 TARGET=broker
	@.ci/environment fuzz
	@$(PY) -m tests.fuzz --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET)) $(ARGS)

bench:  ## Measure side by side with the published endpoints; QUICK=1: 3 minutes, PUBLISH=1: into docs/
	@.ci/environment bench
	@$(PY) -m benchmarks.side_by_side $(if $(QUICK),--quick) $(if $(PUBLISH),--publish) $(ARGS)

lint:  ## Check style and types
	@.ci/environment dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format:  ## Format the code
	@.ci/environment dev
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

wheel:  ## Build the wheel and the source archive into dist/
	@.ci/environment dev
	@.venv/bin/hatchling build

wheelhouse:  ## Build one file for sites without a package index: make wheelhouse PYTHON=3.11 ARCH=x86_64
	@.ci/environment dev
	@[ -n "$(COLLECTION)" ] || command -v ansible-galaxy >/dev/null || $(MAKE) --no-print-directory $(GALAXY)
	@PATH="$$PATH:$(CURDIR)/$(dir $(GALAXY))" $(PY) tools/wheelhouse.py --python $(PYTHON) --arch $(ARCH) --glibc $(GLIBC) $(if $(COLLECTION),--collection $(COLLECTION))

# Builds the collection; any release of ansible-core does, so pip takes one that this Python runs.
$(GALAXY):
	@echo "Installing ansible-core into .cache/ansible-galaxy, to build the collection ..."
	@$(PY) -m venv --clear .cache/ansible-galaxy
	@.cache/ansible-galaxy/bin/pip install -q 'ansible-core>=2.17,<2.22'

molecule:  ## Run the collection's molecule scenario: make molecule, or make molecule ARGS=converge
	@.ci/environment dev
	@$(PY) -m tests.integration.molecule $(or $(ARGS),test)

image: wheel  ## Build the image of the endpoint, docs/containers.md: make image BASE=python:3.12-slim
	@docker build -f docker/Dockerfile $(if $(BASE),--build-arg BASE=$(BASE)) -t cep-endpoint .

constraints:  ## Ask pip anew for the set of libraries (needs python3.10 ... python3.13)
	@.ci/environment dev
	@$(PY) constraints/renew.py python3.10 python3.11 python3.12 python3.13

clean:  ## Remove what building and testing left, but not the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cep tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove the virtual environments as well
	rm -rf .venv .cache
