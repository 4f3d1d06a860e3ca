# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RTX_STAMP := $(VENV)/.installed-rtx
WORKERS ?= 2
# The folders behind the links in luvc_export: ruff does not follow links, mypy does.
SOURCES := luvc_export export engines runtime calibration tests examples plugins benchmarks docs setup.py

.PHONY: demo test slow lint docs native native-nightly gpu-check clean

demo: $(STAMP)
	$(BIN)/luvc-export demo

# Compiled modules are kept though the machine may say otherwise: the tests start many processes.
test: $(RTX_STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

# What CI runs beside: what takes long and breaks seldom, and further cases of what every run asks (slow_cases.py).
slow: SLOW = $(shell grep -rlE --include='test_*.py' 'mark\.slow|slow_but' tests examples)
slow: $(RTX_STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow $(SLOW)

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

# The pages of docs/ and the API reference as a site, in build/site. In an environment of its own: nothing here needs it.
docs:
	test -x build/docs-venv/bin/mkdocs || { $(PYTHON) -m venv build/docs-venv && build/docs-venv/bin/python -m pip install \
	  --quiet --disable-pip-version-check -c constraints.txt mkdocs mkdocs-material 'mkdocstrings[python]'; }
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --strict --quiet

# The C++ of plugins/ where there is no GPU: the host library; the kernels run on the CPU, plain, with every access checked
# and under sanitizers; seeded faults; the TensorRT plugins; the kernels compiled for every GPU by nvcc, which comes from
# packages where it is not installed. Needs GoogleTest (Debian: cmake g++ libgtest-dev).
native: $(STAMP)
	PYTHONPATH=plugins $(BIN)/python -m compiled --jobs $(WORKERS)
	for preset in host emulate emulate-check emulate-asan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset -j $(WORKERS) \
	  && ctest --preset $$preset -j $(WORKERS) || exit 1; done
	LUVC_EMULATED=1 $(BIN)/python -m pytest -q -n 0 tests/plugins/test_compiled.py tests/plugins/test_costs.py \
	  tests/plugins/test_emulated_model.py

# The same with every size and order checked; hours.
native-nightly:
	for preset in emulate emulate-check emulate-asan; do \
	  cmake --preset $$preset -DLUVC_NIGHTLY=ON && cmake --build --preset $$preset -j $(WORKERS) \
	  && ctest --preset $$preset -j $(WORKERS) || exit 1; done

# The part of a trial (luvc-export trial) that needs a GPU and a checkout: kernels, LLM layers under CUDA graphs, engines.
# Results lie in gpu-check-out. Exit code 3, saying why, where there is no GPU.
gpu-check: $(STAMP)
	$(BIN)/luvc-export trial demo --only gpu-check --out gpu-check-out --minutes 120

clean:
	rm -rf $(VENV) demo-out build *.egg-info

# torch goes first, at its pinned version: a CPU build then satisfies everything that depends on it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "luvc-export needs Python 3.10 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt timm
	touch $(STAMP)

# Tests build engines with TensorRT-RTX, which needs no GPU for that; NVIDIA publishes it for Linux x86-64.
$(RTX_STAMP): $(STAMP)
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rtx]'; fi
	touch $(RTX_STAMP)
