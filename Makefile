# Every target sets up the Python it needs, from nothing, in $(VENV):  make demo
#
#   PYTHON=python3.12         the interpreter that makes the environment
#   VENV=/elsewhere/venv      where the environment lies
#   READY_PYTHON=python3      use this interpreter as it is and install nothing
#   PYTEST_ARGS="-k store"    handed to pytest
#   TEST_PROCESSES=1          tests one after the other
#   DEMO_PROFILE=smoke        another profile for the demo

PYTHON ?= python3
VENV ?= .venv
READY_PYTHON ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
DEMO_PROFILE ?= demo
DEMO_OUT := results/runs/$(DEMO_PROFILE)
GPU_OUT := results/runs/gpu_check

# Without compiled files every process would compile PyTorch's sources again, for some 10 s.
unexport PYTHONDONTWRITEBYTECODE

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

.PHONY: help setup demo test lint lab bench gpu-check

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

test: $(DEV_READY)  ## all tests; those for Chromium, a GPU or NYU report themselves as skipped
	@SECONDS=0; $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS); \
	echo "tests took $$SECONDS s"

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

gpu-check: $(DEV_READY) $(BENCH_READY)  ## on a machine with a CUDA device: tests, speed, a real run
	@$(PY) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu-check: PyTorch " + torch.__version__ + " sees no CUDA device on this machine; run it on one that has a GPU and its driver")'
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)
	rm -rf $(GPU_OUT)
	$(PY) -m spdlib bench decode --device cuda --out $(GPU_OUT)/bench_decode.csv
	$(PY) -m spdlib bench training --device cuda --out $(GPU_OUT)/bench_training.csv
	if [ -n "$${SPD_NYU_DIR:-}" ]; then \
	    $(PY) -m spdlib bench data --out $(GPU_OUT)/bench_data.csv; \
	else echo "gpu-check: no bench data: SPD_NYU_DIR names no NYU frames"; fi
	$(PY) -m spdlib train v15_2 --profile demo --device cuda --out $(GPU_OUT)/v15_2
	$(PY) -m spdlib evaluate $(GPU_OUT)/v15_2 --device cuda
	$(PY) -m spdlib run notebooks/06_v15_2.ipynb -p profile smoke -o $(GPU_OUT)/06_v15_2.ipynb --html
	@echo "gpu-check: passed"
