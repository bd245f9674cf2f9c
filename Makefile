# Everything runs in .venv, made on first use from requirements.lock; it need not be activated.
#   make train [ARGS="optim=adamw_fused precision=bf16 parallel=zero3"]
#   make test  [ARGS="tests/config/test_composer.py -k origin"]
#   make test-fast  the tests that start no ranks and no commands: conftest.py finds and marks those that do

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(PYTHON) -m pip install -qq --disable-pip-version-check
PATHS := trainer tests bench train.py
# One more than cores: ranks, restarts and kills spend almost half of their time waiting.
WORKERS ?= 3
ARGS ?=

# The versions that are chosen; `make lock` takes the newest of everything else.
PINS := torch==2.13.0 hydra-core==1.3.8 omegaconf==2.3.1

.PHONY: train test test-fast lint bench lock clean

train: $(STAMP)
	@$(PYTHON) train.py $(ARGS)

test: $(STAMP)
	@$(PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

test-fast: $(STAMP)
	@$(PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal -m "not processes and not slow" $(ARGS)

lint: $(STAMP)
	@$(PYTHON) -m ruff check --quiet $(PATHS)
	@$(PYTHON) -m ruff format --quiet --check $(PATHS)
	@$(PYTHON) -m mypy --no-error-summary

bench: $(STAMP)
	@$(PYTHON) bench/startup.py
	@$(PYTHON) bench/step.py

# The first interpreter that runs and is new enough: a shim of a version manager may be on PATH and refuse to run.
$(STAMP): requirements.lock pyproject.toml
	@set -e; if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  for python in python3.11 python3 python3.12 python3.13 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: Python 3.11 or newer is needed on PATH; found $$(python3 --version 2>&1 || echo none)" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$found --version); this happens once and takes some minutes."; \
	  $$found -m venv $(VENV); \
	fi
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m compileall -q trainer  # a config command spends a tenth of its time compiling otherwise
	@touch $@

# Without what depends on the machine: local versions (+cpu, +cu130) and CUDA's packages, which torch pins itself.
lock:
	@set -e; dir=$$(mktemp -d); trap 'rm -rf $$dir' EXIT; \
	python3 -m venv $$dir; \
	$$dir/bin/pip install -qq $(PINS) '.[hf,optim,tensorboard,digits,mlflow,comet_ml,clearml,dvclive,codecarbon,dev,slurm]'; \
	{ echo "# Written by 'make lock'. CUDA's packages are pinned by torch itself."; \
	  $$dir/bin/pip freeze --all --exclude pip --exclude hydra-trainer \
	  | sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(nvidia-[^m]|cuda|triton)'; } > $$dir/lock; \
	mv $$dir/lock requirements.lock

clean:
	@rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
	@find $(PATHS) -name __pycache__ -prune -exec rm -rf {} +
