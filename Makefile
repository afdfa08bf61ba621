# Every target makes .venv by itself. Choose the interpreter with PYTHON=python3.11 (3.10 to 3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes side by side: most of a test is one thread's compiling. Each needs about 3 GB.
WORKERS ?= 2
PROMPT ?= a red circle moving right on a black background

.PHONY: demo lint test test-full test-slow clean

demo: $(VENV)/.runtime
	$(BIN)/mindsora generate "$(PROMPT)" --model nano --seed 0 --output outputs/demo.mp4 \
		--contact-sheet outputs/demo.webp

lint: $(VENV)/.test
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# What `test` leaves out: it runs no test of `test` again.
test-full: $(VENV)/.test
	$(BIN)/python -m pytest -m "full and not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build *.egg-info

# `setup.py --version` first: on a host with CANN it says which MindSpore matches (pip hides that line).
$(VENV)/.runtime: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=64" wheel
	$(BIN)/python setup.py --quiet --version
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@
