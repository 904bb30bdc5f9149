# Two commands do everything, set-up included: `make demo` and `make test`.
# Python 3.11 is preferred; `make PYTHON=/path/to/python demo` uses another one (3.10 to 3.12).
PYTHON ?= $(shell for name in python3.11 python3.12 python3.10 python3 python; do \
	if $$name -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	then echo $$name; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
export GLOG_v := 3

# We develop on this version; `make test MINDSPORE=2.10.0` installs and tests another one.
MINDSPORE ?= 2.8.0
INSTALLED := $(VENV)/installed-$(MINDSPORE)

MINUTES ?= 60

.PHONY: demo test lint bench bench-quick fuzz clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/emu3 run demo

test: $(INSTALLED)-for-tests lint
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)-for-benchmarks
	$(BIN)/python -m tests.benchmarks.run --json docs/benchmarks.json --page docs/benchmarks.md

bench-quick: $(INSTALLED)-for-benchmarks
	$(BIN)/python -m tests.benchmarks.run --quick

fuzz: $(INSTALLED)-for-tests
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "emu3-relay needs Python 3.10, 3.11 or 3.12 with the venv module, and none was found on PATH."; \
		echo "Install one (for example the packages python3.11 and python3.11-venv), or run"; \
		echo "    make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable . "mindspore==$(MINDSPORE)"
	rm -f $(VENV)/installed-*
	touch $@

$(INSTALLED)-for-tests: $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[test]" "mindspore==$(MINDSPORE)"
	touch $@

$(INSTALLED)-for-benchmarks: $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[bench]" "mindspore==$(MINDSPORE)"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
