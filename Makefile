# `make demo` and `make test` are all a new machine needs: both set everything up first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo local test lint types check check-full hostile faults soak bench bench-full peers train lock image clean help

help:            ## Show these targets.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY)   ## Run the main job on this machine and write demo-out/index.html.
	$(BIN)/mlworker demo --out demo-out

local: $(READY)  ## Keep a whole worker running on this machine.
	$(BIN)/mlworker local

# More processes than most machines have cores to spare: many tests wait. The fault tests bring their own way of
# running side by side, and measure: nothing else runs beside them.
test: $(READY)   ## Run the tests.
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --ignore tests/faults --ignore tests/operations/test_rollout.py
	$(BIN)/python -m pytest tests/faults tests/operations/test_rollout.py

lint: $(READY)   ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types.
	$(BIN)/mypy

check: lint types test   ## Everything CI checks.

# What CI has no time for: promises at their full size, races twenty times, ten minutes of faults, the image.
check-full: check hostile   ## Everything CI checks, and what it has no time for; about an hour and a half.
	$(BIN)/python -m pytest --full-size --timeout 300 tests/end_to_end/test_failures.py
	$(MAKE) faults REPEAT=20 ONLY=race
	$(MAKE) soak MINUTES=10
	$(MAKE) image

hostile: $(READY)  ## 200 malformed messages: each a dead letter with its reason, the worker unharmed.
	$(BIN)/python -m tools.hostile

faults: REPEAT ?= 1
faults: $(READY)   ## Kill, freeze, cut and refuse everything the worker depends on; REPEAT=20 ONLY=race.
	for turn in $$(seq $(REPEAT)); do $(BIN)/python -m pytest tests/faults $(if $(ONLY),-m $(ONLY)) || exit 1; done

soak: MINUTES ?= 3
soak: $(READY)     ## Thousands of messages under random faults, then the accounts compared; MINUTES=10 SEED=7.
	$(BIN)/python -m tests.faults.soak --write --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(READY)    ## Measure beside the peers, ONLY=a,c some of it, and write docs/benchmarks.md; made to take 25 minutes.
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)); code=$$?; $(BIN)/python -m benchmarks.report && exit $$code

bench-full: $(READY)  ## ViT-B from beginning to end, once a size, beside stock SAM; about an hour and three quarters.
	$(BIN)/python -m benchmarks --whole; code=$$?; $(BIN)/python -m benchmarks.report && exit $$code

peers: $(READY)    ## Install the peers of the measurements into an environment of their own.
	$(BIN)/python -m benchmarks.peers

train: $(READY)  ## Train the demo models anew; see docs/demo-models.md.
	$(BIN)/python -m tools.train_demo_models

lock: $(READY)   ## Lock what the image is built from; EXTRA=heif, UPGRADE=1.
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m tools.lock $(if $(EXTRA),--extra $(EXTRA)) $(if $(UPGRADE),--upgrade)

image: $(READY)  ## Build the image on a stand-in base, and run mlworker in it.
	tools/try_image.sh

clean:           ## Remove what these targets made.
	rm -rf $(VENV) .venv-peers demo-out
