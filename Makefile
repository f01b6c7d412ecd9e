# Two commands for a newcomer: `make demo` and `make test`. Everything else is for contributors.
# TORCH_INDEX_URL names the index to take PyTorch from (a CUDA build, say); empty means pip's own.
PYTHON ?= python3
TORCH_INDEX_URL ?=
VENV := .venv
PARITY := .venv-parity
CODE := src tests benchmarks examples tools setup.py

# Spinning OpenMP threads make two busy cores tens of times slower; waiting threads cost nothing.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test quick gpu parity pretrain lint types hooks install clean

demo: $(VENV)/.installed
	$(VENV)/bin/foretrain demo

# Two workers, then what starts processes, one test at a time; the last line counts both.
test: $(VENV)/.installed
	$(VENV)/bin/python -m tests.tiers test $(PYTEST_ARGS)

quick: $(VENV)/.installed
	$(VENV)/bin/python -m tests.tiers quick $(PYTEST_ARGS)

gpu: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m gpu tests/gpu $(PYTEST_ARGS)

parity: $(PARITY)/.installed
	$(PARITY)/bin/python -m pytest -m parity $(PYTEST_ARGS)

# The model in the box anew: hours. An interrupted call is continued by the next one.
pretrain: $(VENV)/.installed
	$(VENV)/bin/foretrain train configs/pretrain/tiny.yaml --resume
	$(VENV)/bin/python -m tools.pack_pretrained runs/tiny

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

types: $(VENV)/.installed
	$(VENV)/bin/pyright

# ruff and pyright before every commit.
hooks: $(VENV)/.installed
	$(VENV)/bin/pre-commit install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(PARITY)/.installed: pyproject.toml setup.py constraints-parity.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --constraint constraints-parity.txt $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(PARITY)/bin/python -m pip install --quiet --constraint constraints-parity.txt --editable ".[parity]"
	touch $@

clean:
	rm -rf $(VENV) $(PARITY) runs
