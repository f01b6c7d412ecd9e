# Two commands for a newcomer: `make demo` and `make test`. Everything else is for contributors.
# TORCH_INDEX_URL names the index to take PyTorch from (a CUDA build, say); empty means pip's own.
# HASHES=no installs by version alone, from an index that has wheels of its own making.
PYTHON ?= python3
TORCH_INDEX_URL ?=
HASHES ?= yes
VENV := .venv
PARITY := .venv-parity
FEV := .venv-fev
CHECKS := .venv-checks
CODE := src tests benchmarks examples tools setup.py

# Spinning OpenMP threads make two busy cores tens of times slower; waiting threads cost nothing.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test quick gpu gpu-measure parity fev-parity fuzz faults pretrain lint types hooks install lock audit sbom clean

demo: $(VENV)/.installed
	$(VENV)/bin/foretrain demo

# Two workers, then what starts processes, one test at a time; the last line counts both.
# torch looks up a name for each connection of processes, where a lost question to a name server would cost 5 s.
test quick: export RES_OPTIONS := timeout:1 attempts:2
test: $(VENV)/.installed
	$(VENV)/bin/python -m tests.tiers test $(PYTEST_ARGS)

quick: $(VENV)/.installed
	$(VENV)/bin/python -m tests.tiers quick $(PYTEST_ARGS)

gpu: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m gpu tests/gpu $(PYTEST_ARGS)

# Tests and figures of one GPU; GPU_ARGS="--minutes 4 --only auto,eager".
gpu-measure: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks.gpu --json runs/gpu.json $(GPU_ARGS)

parity: $(PARITY)/.installed
	$(PARITY)/bin/python -m pytest -m parity $(PYTEST_ARGS)

# By hand: fev has an environment of its own, since it and the parity environment need different versions of datasets.
fev-parity: $(VENV)/.installed $(FEV)/.installed
	$(VENV)/bin/python tests/proofs/fev_parity.py --python $(FEV)/bin/python $(FEV_ARGS)

# Damaged files and hostile words for every verb: new ones at each call, whose seed is printed; SEED= repeats them.
MINUTES ?= 10
fuzz: $(VENV)/.installed
	$(VENV)/bin/python tests/proofs/fuzz_files.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --keep runs/fuzz $(FUZZ_ARGS)

# Every file operation of every verb fails, or the command is killed there: hours, continued by the next call, which
# knows by the log what was tried. A changed program needs a new log.
faults: $(VENV)/.installed
	$(VENV)/bin/python tests/proofs/fault_files.py --minutes $(MINUTES) --log runs/faults.jsonl $(FAULT_ARGS)

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

# Wheels alone, so that no package's setup.py runs. First all but torch, by the hashes of the lock; then torch, whose
# builds differ, with CUDA's libraries; then the project, for which nothing more may be fetched.
PIP_INSTALL := bin/python -m pip install --quiet --only-binary :all:
define environment
	$(PYTHON) -m venv $(1)
	$(1)/$(PIP_INSTALL) $(if $(filter no,$(HASHES)),--constraint $(2).txt setuptools,--require-hashes --no-deps --requirement $(2).lock)
	$(1)/$(PIP_INSTALL) --constraint $(2).txt $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(1)/$(PIP_INSTALL) --constraint $(2).txt $(if $(filter no,$(HASHES)),,--no-index) --no-build-isolation --editable ".[$(3)]"
	touch $(1)/.installed
endef

$(VENV)/.installed: pyproject.toml setup.py constraints.txt constraints.lock
	$(call environment,$(VENV),constraints,dev)

$(PARITY)/.installed: pyproject.toml setup.py constraints-parity.txt constraints-parity.lock
	$(call environment,$(PARITY),constraints-parity,parity)

# fev alone, without foretrain and torch.
$(FEV)/.installed: constraints-fev.txt constraints-fev.lock
	$(PYTHON) -m venv $(FEV)
	$(FEV)/$(PIP_INSTALL) --no-deps $(if $(filter no,$(HASHES)),,--require-hashes) \
		--requirement constraints-fev.$(if $(filter no,$(HASHES)),txt,lock)
	touch $@

# By hand, with tools of their own environment, which are no dependencies. `make lock` takes over changed constraints:
# a lock has the hashes of all files of a version, for every platform, and no address.
CHECK_TOOLS := uv==0.13.9 pip-audit==2.10.1 cyclonedx-bom==7.5.0
LOCK := uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --only-binary :all: \
	--no-emit-package torch --no-header --no-annotate

$(CHECKS)/.installed: Makefile
	$(PYTHON) -m venv $(CHECKS)
	$(CHECKS)/$(PIP_INSTALL) $(CHECK_TOOLS)
	touch $@

lock: $(CHECKS)/.installed
	rm -f constraints.lock constraints-parity.lock constraints-fev.lock
	$(CHECKS)/bin/$(LOCK) constraints.txt --output-file constraints.lock
	$(CHECKS)/bin/$(LOCK) constraints-parity.txt --output-file constraints-parity.lock
	$(CHECKS)/bin/$(LOCK) constraints-fev.txt --output-file constraints-fev.lock

# Never fails: an advisory is no fault of the change at hand.
audit:
	@if $(MAKE) --silent $(CHECKS)/.installed >/dev/null 2>&1; \
	then $(CHECKS)/bin/python -m tools.audit constraints.txt constraints-parity.txt constraints-fev.txt; \
	else echo "audit: not done: pip-audit could not be installed. Is there a network?"; fi

sbom: $(VENV)/.installed $(CHECKS)/.installed
	$(CHECKS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml $(VENV) >sbom-all.json
	$(VENV)/bin/python -m tools.sbom <sbom-all.json >sbom.json
	rm sbom-all.json

clean:
	rm -rf $(VENV) $(PARITY) $(FEV) $(CHECKS) runs
