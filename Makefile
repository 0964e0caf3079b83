# make install | demo | docs | test | test-slow | test-gpu | clean
# Without a GPU:  make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: install demo docs test test-slow test-gpu clean

install:
	@PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) tools/install.sh

demo: install
	$(BIN)/python tools/demo.py

docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "The site is in docs/_build/index.html"

test: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu tests/gpu

clean:
	rm -rf $(VENV) work_dirs/demo build docs/_build *.egg-info
