# `make` lists the targets. Everything runs in .venv, which `make .venv` fills.
PYTHON ?= python3.11
# A package index for the CPU build of PyTorch, where the default one brings CUDA:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
VIDEO ?=
BIN := .venv/bin
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(INDEX)

.PHONY: help demo test test-all test-machines test-browser fuzz check bench golden clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.venv/made: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/made-for-tests: .venv/made
	$(INSTALL) --editable '.[dev,diffusers,plot,corpus,codec,sim,onnx,remote]'
	touch $@

demo: .venv/made  ## a real video to tokens and back, into out/ (VIDEO=clip.mp4 for your own)
	$(BIN)/reeltok demo $(if $(VIDEO),--video '$(VIDEO)') --out out --force

# Threads that wait asleep: on a busy machine those that spin make small operations minutes long.
test test-all test-machines test-browser: export OMP_WAIT_POLICY := passive
# Bytecode is kept, whatever the shell says: tests start hundreds of commands.
test test-all test-machines test-browser: export PYTHONDONTWRITEBYTECODE :=

# A process for each core with one thread each; the tests of a file stay together.
JOBS ?= 2

test: export OMP_NUM_THREADS := 1
test: .venv/made-for-tests  ## the tests: CPU, offline, minutes (JOBS=2 processes)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.venv/made-for-all: .venv/made-for-tests
	$(INSTALL) --editable '.[ray,scenes,readers]' || echo 'not all readers: their tests will be skipped'
	touch $@

test-all: export REELTOK_ALL_EXAMPLES := 1
test-all: .venv/made-for-all  ## also the slow ones
	$(BIN)/python -m pytest -m 'not gpu and not network and not browser'

# Kernels of an older processor, another summation order, one thread, another order of the tests.
test-machines: export ATEN_CPU_CAPABILITY := avx2
test-machines: export ONEDNN_MAX_CPU_ISA := AVX2
test-machines: export MKL_CBWR := COMPATIBLE
test-machines: export OMP_NUM_THREADS := 1
test-machines: .venv/made-for-tests  ## the tests as another machine would run them, in random order
	$(BIN)/python -m pytest -p randomly

MINUTES ?= 30
fuzz: .venv/made-for-tests  ## damaged files, command lines and kills, for MINUTES=30 (docs/reliability.md)
	OMP_WAIT_POLICY=passive $(BIN)/python tests/fuzz/campaign.py --minutes $(MINUTES)

.venv/made-for-pages: .venv/made-for-tests
	$(INSTALL) --editable '.[ui]' || echo 'no gradio: the tests of the web app will be skipped'
	touch $@

test-browser: .venv/made-for-pages  ## the report and the web app in chromium
	$(BIN)/python -m pytest -m browser tests/evaluate/test_report.py tests/viewer

check: .venv/made-for-tests  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/made-for-tests  ## speed and memory, as ratios to peers measured in the same run
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

golden: .venv/made-for-tests  ## remake tests/golden; look at the difference before committing it
	$(BIN)/python tests/golden/remake.py

clean:  ## remove what make made
	rm -rf .venv out build dist
