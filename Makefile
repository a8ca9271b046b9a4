# Every target sets up the Python it needs, from nothing, in $(VENV):  make demo
#
#   PYTHON=python3.12         the interpreter that makes the environment
#   VENV=/elsewhere/venv      where the environment lies
#   READY_PYTHON=python3      use this interpreter as it is and install nothing
#   PYTEST_ARGS="-k store"    handed to pytest
#   TEST_PROCESSES=1          tests one after the other
#   DEMO_PROFILE=smoke        another profile for the demo
#   JOBS=4                    networks that `generations` trains at a time
#   TRAIN_ARGS="--set steps=600 --set points=64 --set evaluate_every=120"
#                             added to its `train` commands, here for shorter runs than in docs/results.md
#   FUZZ_ARGS="--mutations 20000 --only store"      a shorter trial, of some readers
#   TORTURE_ARGS="--trials 1 --commands packing"    a shorter trial, of some commands
#   GENERATIONS_OUT=/runs     where `generations` keeps and publishes its runs

PYTHON ?= python3
VENV ?= .venv
READY_PYTHON ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
DEMO_PROFILE ?= demo
DEMO_OUT := results/runs/$(DEMO_PROFILE)
GPU_OUT := results/runs/gpu_check
GENERATIONS_OUT ?= results/runs/generations
JOBS ?= 1
CORES := $(shell getconf _NPROCESSORS_ONLN)
TRAIN_ARGS ?=
FUZZ_ARGS ?=
TORTURE_ARGS ?=

# Without compiled files every process would compile PyTorch's sources again, for some 10 s.
unexport PYTHONDONTWRITEBYTECODE
# as in spdlib/__init__.py, for kernels and tests, which import PyTorch first
export GOMP_SPINCOUNT ?= 2000

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

ifeq ($(READY_PYTHON),)
PY := $(VENV)/bin/python
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
BENCH_READY := $(VENV)/.ready-bench
else
PY := $(READY_PYTHON)
endif
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

GENERATIONS := v13_log_depth:exp04_corrected v13_1:exp07_corrected v14_plan:v14_plan \
    v14_triple:exp09_corrected v14_dual:exp08_corrected v13_calibrated:exp02_corrected v15_2:v15_2

.PHONY: help setup demo test test-long lint lab bench fuzz torture generations \
    gpu-check gpu-here gpu-tests gpu-bench gpu-run gpu-notebook

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing spdlib (about 1.5 minutes, most of it PyTorch)"
	@SECONDS=0; $(INSTALL) -e .; touch $@; echo "installed in $$SECONDS s"

$(VENV)/.ready-dev: $(VENV)/.ready-run
	@echo "installing the tools for tests and checks"
	@SECONDS=0; $(INSTALL) -e ".[dev]"; touch $@; echo "installed in $$SECONDS s"

$(VENV)/.ready-bench: $(VENV)/.ready-run
	@echo "installing what the benchmarks compare with"
	@SECONDS=0; $(INSTALL) -e ".[bench]"; touch $@; echo "installed in $$SECONDS s"

setup: $(DEV_READY) $(BENCH_READY)  ## the environment with everything in it

demo:  ## from nothing to a trained, evaluated, drawn network on procedural rooms
	@SECONDS=0; \
	if [ -n "$(RUN_READY)" ]; then $(MAKE) --no-print-directory $(RUN_READY); fi; \
	installed=$$SECONDS; \
	$(PY) -m spdlib run notebooks/06_v15_2.ipynb -p profile $(DEMO_PROFILE) \
	    -o $(DEMO_OUT)/06_v15_2.ipynb --html; \
	echo "demo: installation $$installed s, notebook $$((SECONDS - installed)) s, together $$SECONDS s"

test: $(DEV_READY)  ## the tests; those for Chromium, a GPU or NYU report themselves as skipped
	@SECONDS=0; $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS); \
	echo "tests took $$SECONDS s"

test-long: $(DEV_READY)  ## also what make test checks for some networks and experiments only
	$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "long or not long" $(PYTEST_ARGS)

lint: $(DEV_READY)  ## ruff, mypy, notebooks without outputs
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m nbstripout --verify --keep-id $(wildcard notebooks/*.ipynb)

lab: $(RUN_READY)  ## the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

bench: $(BENCH_READY)  ## the measured comparisons; tables go to results/measured/
	$(PY) -m spdlib bench networks
	$(PY) -m spdlib bench decode
	$(PY) -m spdlib bench training
	$(PY) -m spdlib bench data

fuzz: $(DEV_READY)  ## a valid file for every reader, damaged 200,000 times: minutes to hours
	$(PY) -m tests.hostile.fuzz --out results/measured/fuzz.csv $(FUZZ_ARGS)

torture: $(DEV_READY)  ## commands killed, interrupted, starved of disk at random moments, then run again
	$(PY) -m tests.hostile.torture $(TORTURE_ARGS)

generations: $(RUN_READY)  ## seven networks on equal terms, trained, evaluated, compared: six hours or more
	@[ -n "$${SPD_DATA:-}" ] && [ -n "$${SPD_WEIGHTS:-}" ] || { echo "generations: set SPD_DATA to a packed store of NYU frames and SPD_WEIGHTS to the encoder's weights (README, Bring your data)"; exit 1; }
	export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( $(CORES) > $(JOBS) ? $(CORES) / $(JOBS) : 1 ))}; \
	printf '%s\n' $(GENERATIONS) | xargs -P $(JOBS) -I{} $(SHELL) -euc 'run={}; \
	    network=$${run%:*} experiment=$${run#*:} folder=$(GENERATIONS_OUT)/runs/$${run%:*}; \
	    $(PY) -m spdlib train $$experiment --profile equal_terms --out $$folder $(TRAIN_ARGS); \
	    $(PY) -m spdlib evaluate $$folder; \
	    $(PY) -m spdlib publish $$folder $(GENERATIONS_OUT)/generations/$$network'
	$(PY) -m spdlib equal-terms $(addprefix $(GENERATIONS_OUT)/generations/,$(foreach run,$(GENERATIONS),$(firstword $(subst :, ,$(run))))) \
	    --out $(GENERATIONS_OUT)/generations_nyu_labeled

gpu-check: gpu-here gpu-tests gpu-bench gpu-run gpu-notebook  ## on a machine with a CUDA device: tests, speed, a real run
	@echo "gpu-check: passed"

gpu-here: $(DEV_READY) $(BENCH_READY)
	@$(PY) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu-check: PyTorch " + torch.__version__ + " sees no CUDA device on this machine; run it on one that has a GPU and its driver")'

gpu-tests: gpu-here
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)

gpu-bench: gpu-here
	rm -rf $(GPU_OUT)/bench_*
	$(PY) -m spdlib bench decode --device cuda --out $(GPU_OUT)/bench_decode.csv
	$(PY) -m spdlib bench training --device cuda --out $(GPU_OUT)/bench_training.csv
	if [ -n "$${SPD_NYU_DIR:-}" ]; then \
	    $(PY) -m spdlib bench data --out $(GPU_OUT)/bench_data.csv; \
	else echo "gpu-check: no bench data: SPD_NYU_DIR names no NYU frames"; fi

# real frames where SPD_DATA and SPD_WEIGHTS name some and the encoder's weights, rooms elsewhere
gpu-run: gpu-here
	rm -rf $(GPU_OUT)/v15_2
	$(PY) -m spdlib train v15_2 --profile $(if $(and $(SPD_DATA),$(SPD_WEIGHTS)),equal_terms,demo) --device cuda --out $(GPU_OUT)/v15_2
	$(PY) -m spdlib evaluate $(GPU_OUT)/v15_2 --device cuda

gpu-notebook: gpu-here
	$(PY) -m spdlib run notebooks/06_v15_2.ipynb -p profile smoke -o $(GPU_OUT)/06_v15_2.ipynb --html
