# Two commands: `make demo` and `make test`. Both set up .venv on their own; Python >= 3.11 is all they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types check install clean

demo: $(INSTALLED)  ## train a network without spatial convolution on real digits, score it, draw what it sees
	rm -rf runs/demo
	$(BIN)/sasa train --output runs/demo
	$(BIN)/sasa eval --model runs/demo
	@echo "look at runs/demo/attention.png, runs/demo/predictions.png and runs/demo/curves.png"

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test  ## what continuous integration runs

install: $(INSTALLED)

# torch goes in first: the build of later native parts looks for its headers in the environment.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sasa needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info
