# Start with `make demo` or `make test`. Every target creates .venv first; only Python >= 3.11 is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo docs test test-kernels test-neon bench bench-full lint types check install wheel clean

demo: $(INSTALLED)  ## train a network without spatial convolution on handwritten digits, score it, and time it beside convolution
	rm -rf runs/demo
	$(BIN)/sasa train --output runs/demo
	$(BIN)/sasa eval --model runs/demo
	$(BIN)/sasa bench --model runs/demo
	$(BIN)/sasa explore --model runs/demo --output runs/demo/attention.html
	@echo "look at runs/demo/attention.png, runs/demo/predictions.png and runs/demo/curves.png"
	@echo "and open runs/demo/attention.html in a browser: it shows where the network looks, for the pixel under the pointer"

test: $(INSTALLED)  ## all tests; those of CPU kernels for every instruction set of this machine
	$(BIN)/python -m pytest -n auto --dist worksteal  # a process for each core

docs: $(INSTALLED)  ## the documents as a site, build/site/index.html, which opens without a server; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-kernels: $(INSTALLED)  ## test the CPU kernels in C++, without torch, for every instruction set of this machine
	$(BIN)/python setup.py -q build_kernels_test --output build/test_kernels
	build/test_kernels

test-neon: $(INSTALLED)  ## the same for aarch64 in an emulator; needs g++-aarch64-linux-gnu and qemu-user
	CXX=aarch64-linux-gnu-g++ CXXFLAGS=-static $(BIN)/python setup.py -q build_kernels_test --machine aarch64 --output build/test_kernels_neon
	qemu-aarch64 build/test_kernels_neon

# Results are files named by date; commit those that a document cites. Run nothing else meanwhile.
RESULT := benchmarks/results/$(shell date +%F)

bench: $(INSTALLED)  ## the acceptance table: attention beside the convolution it replaces; Ctrl-C keeps what was measured
	$(BIN)/python -m benchmarks.cpu --profile --budget 10m --output $(RESULT)

bench-full: $(INSTALLED)  ## more comparisons: layers, batch sizes, windows, map sizes, threads, FlexAttention, detectors
	@mkdir -p $(dir $(RESULT))
	$(BIN)/python -m benchmarks.cpu.full --json $(RESULT)-full.json --markdown $(RESULT)-full.md

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/cuda/*.cuh tests/cuda/emulation/* tests/csrc/*

types: $(INSTALLED)
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test  ## what continuous integration runs

install: $(INSTALLED)

# One wheel serves every Python and every torch >= 2.11. build/ may contain files that were removed from src/.
wheel: $(INSTALLED)  ## dist/sasa-*.whl
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

# torch is installed first, because the build of the CPU kernels needs its headers.
$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/* csrc/*/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sasa needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info src/sasa/_native
