# make install | demo | test | test-slow | test-gpu | clean
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: install demo test test-slow test-gpu clean

install:
	@PYTHON=$(PYTHON) VENV=$(VENV) tools/install.sh

demo: install
	$(BIN)/python tools/demo.py

test: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu tests/gpu

clean:
	rm -rf $(VENV) work_dirs build *.egg-info
