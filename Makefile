# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` each set up everything they need in .venv first.
PYTHON ?= python3
VENV ?= .venv
# The pair the project is developed with; any PyTorch from 2.10 on works. Empty keeps what is installed.
TORCH ?= torch==2.14.1 torchvision==0.29.1
DEMO_OUT ?= runs/demo
BUILD_TOOLS = "setuptools>=77" wheel "cmake<5" ninja pybind11 numpy
NATIVE = setup.py CMakeLists.txt pyproject.toml $(shell find csrc -type f)
RUN = $(VENV)/bin/python -m

.PHONY: help demo test docs lint format gpu-check gpu-bundle clean
help:
	@echo "make demo       install, fetch MNIST, train four defences, attack them, write the report"
	@echo "make test       install, run every test that needs neither a GPU nor long runs"
	@echo "make docs       install, build the site in build/docs; a warning is an error"
	@echo "make lint       ruff, mypy and clang-format, checking only"
	@echo "make format     ruff and clang-format, rewriting"
	@echo "make gpu-check  all that needs a GPU, within 13 minutes: right or wrong, times, tests (no network)"
	@echo "make gpu-bundle compile for a GPU machine (Python 3.12, PyTorch 2.11.0, sm_90a) without a GPU"

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit("bido_ext needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(BUILD_TOOLS) $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.python $(NATIVE)
	$(VENV)/bin/pip install --quiet --no-build-isolation --editable ".[lab,test]"
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable ".[dev]" --no-build-isolation
	touch $@

demo: $(VENV)/.installed
	$(VENV)/bin/bido demo --out $(DEMO_OUT)

# One worker a core, one thread a worker: threads of several workers would wait for each other.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) pytest -m "not gpu and not slow" -n auto --dist loadfile --durations=10

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable ".[docs]" --no-build-isolation
	touch $@

docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(RUN) sphinx -b html -q -E -a -W --keep-going docs build/docs

lint: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.h' 'tests/*.cpp' 'tests/*.cu')

format: $(VENV)/.dev
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.h' 'tests/*.cpp' 'tests/*.cu')

# Uses the Python and PyTorch at hand, downloads nothing; compiles only where gpu-bundle/ is missing.
gpu-check:
	test -e gpu-bundle/bundle.json || BIDO_CUDA_ARCHS=native $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m benchmarks.gpu_check --budget 780 --out runs/gpu-check $(GPU_CHECK_FLAGS)

BUNDLE_PYTHON ?= 3.12
BUNDLE_TORCH ?= 2.11.0
BUNDLE_ARCHS ?= 90a
gpu-bundle:
	$(PYTHON) -m benchmarks.gpu_bundle --python $(BUNDLE_PYTHON) --torch $(BUNDLE_TORCH) --archs "$(BUNDLE_ARCHS)" $(GPU_BUNDLE_FLAGS)

clean:
	rm -rf build bido_ext/*.so *.egg-info
