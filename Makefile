# make serve   sets everything up and starts the server (it prints the address)
# make test    sets everything up, then runs every check: lint, types, import contracts, unit and browser tests
# make gpu     on a machine with an NVIDIA GPU: runs the tests that want one, and measures kernels and presets there
# make audit   looks the installed dependencies up in PyPI's database of known holes, which needs the internet
#
# All start from a bare Debian or Ubuntu with Python 3.10 or newer, and are quick the second time.
# PYTHON=python3.12   another interpreter          ARGS="--port 9000"   arguments for serve
# TORCH="torch==2.9.1 --index-url ..."             your own build of torch instead of the one chosen below
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TORCH ?=
CPU_TORCH ?= 2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# Where mypy and import-linter see the tree as the package `ultraflash` (they cannot follow an editable install).
TREE := build/tree
PARTS := kernels models server training

.PHONY: help serve test gpu lint format types contracts unit unit-server unit-server-parts unit-rest browser audit torch readme clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^SHELL/{s/^# \{0,1\}//p}' Makefile

serve: $(VENV)/.package
	$(BIN)/ultraflash serve $(ARGS)

test: lint types contracts unit browser

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.tests $(TREE)
	$(BIN)/mypy

contracts: $(VENV)/.tests $(TREE)
	PYTHONPATH=$(TREE) $(BIN)/lint-imports --no-cache

# Apart from the browser's: what Playwright leaves in a process breaks the asyncio tests that come after it. Side by
# side, since tests of the server wait more than they compute: of the server as a whole, of its folders, and the rest.
# One thread each: threads that wait for one another on cores that others use as well take many times as long.
unit unit-server unit-server-parts unit-rest: export OMP_NUM_THREADS := 1

unit: $(VENV)/.tests
	$(MAKE) --no-print-directory -j3 unit-server unit-server-parts unit-rest

unit-server: $(VENV)/.tests
	$(BIN)/pytest -p no:playwright -m 'not exhaustive' tests/server/test_*.py

unit-server-parts: $(VENV)/.tests
	$(BIN)/pytest -p no:playwright -m 'not exhaustive' tests/server/*/

unit-rest: $(VENV)/.tests
	$(BIN)/pytest -p no:playwright -m 'not exhaustive' tests --ignore=tests/server --ignore=tests/browser

browser: $(VENV)/.browser
	$(BIN)/pytest tests/browser

audit: $(VENV)/.tests
	$(PIP) install -q 'pip-audit>=2.7'
	$(BIN)/python .ci/audit.py

torch: $(VENV)/.torch

# The numbers and pictures that the README shows, anew. On a quiet machine and from a clean commit, which is why the
# numbers come first: they name the commit.
readme: $(VENV)/.browser
	$(BIN)/python benchmarks/cascade.py --json benchmarks/results/cascade.json
	$(BIN)/python benchmarks/readme_table.py
	$(BIN)/python benchmarks/prompt_sheet.py -o .github/images/mini-sheet.jpg
	ULTRAFLASH_SCREENSHOTS=build/screenshots $(BIN)/pytest tests/browser/test_looks.py -k desktop
	cp build/screenshots/desktop-playing-dark.png .github/images/page.png

# The presets at full size, with drawn weights since the real ones need not be at hand. Results change the tree, and
# their reports name its commit, so they come into place at the end.
GPU_RESULTS := build/gpu
FULL_SIZE := benchmarks/cascade.py --device cuda --drawn-weights --warmup 4 --groups 3

gpu: $(VENV)/.tests
	rm -rf $(GPU_RESULTS) && mkdir -p $(GPU_RESULTS)
	$(BIN)/pytest -p no:playwright -m gpu tests/kernels tests/models tests/training
	$(BIN)/python benchmarks/cascade.py --device cuda --json $(GPU_RESULTS)/mini.json
	$(BIN)/python $(FULL_SIZE) --preset ultraflash-1k --sizes 0.5K 1K --json $(GPU_RESULTS)/ultraflash-1k.json
	$(BIN)/python $(FULL_SIZE) --preset ultraflash-1k --sizes 1K --overlap --json $(GPU_RESULTS)/ultraflash-1k-overlap.json
	$(BIN)/python $(FULL_SIZE) --preset ultraflash-1k --sizes 1K --compile --json $(GPU_RESULTS)/ultraflash-1k-compiled.json
	$(BIN)/python $(FULL_SIZE) --preset ultraflash-2k --sizes 2K --json $(GPU_RESULTS)/ultraflash-2k.json
	$(BIN)/python benchmarks/tile_times.py --json build/gpu-tiles.json
	$(BIN)/python benchmarks/kernels.py --tune --json build/gpu-kernels.json
	mv build/gpu-tiles.json build/gpu-kernels.json benchmarks/results
	rm -rf benchmarks/results/gpu && mv $(GPU_RESULTS) benchmarks/results/gpu
	$(BIN)/python benchmarks/readme_table.py

clean:
	rm -rf $(VENV) build

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "ultraflash needs Python 3.10 or newer; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || .ci/apt-install "python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
	$(PYTHON) -m venv $(VENV)
	@touch $@

# On a machine with an NVIDIA driver: the registry's build. Elsewhere a CPU build, from the configured package
# sources or else from PyTorch's own index: the registry's Linux build brings gigabytes of CUDA.
$(VENV)/.torch: $(VENV)/.venv
	@if [ -n '$(TORCH)' ]; then $(PIP) install $(TORCH); \
	elif nvidia-smi >/dev/null 2>&1; then $(PIP) install 'torch>=2.6'; \
	else \
	  echo "no NVIDIA driver here: installing a CPU build of torch"; \
	  $(PIP) install -q 'torch==$(CPU_TORCH)+cpu' 2>/dev/null \
	  || $(PIP) install -q --retries 1 --index-url https://download.pytorch.org/whl/cpu 'torch>=2.6' \
	  || $(PIP) install 'torch>=2.6'; \
	fi
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml setup.py
	$(PIP) install -q -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.package
	$(PIP) install -q -e '.[test]'
	@touch $@

$(VENV)/.browser: $(VENV)/.tests
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || .ci/apt-install chromium fonts-dejavu-core || $(BIN)/playwright install --with-deps chromium
	@touch $@

$(TREE): Makefile
	@mkdir -p $(TREE)/ultraflash
	@for part in $(PARTS); do ln -sfn "$(CURDIR)/$$part" $(TREE)/ultraflash/$$part; done
	@touch $@
