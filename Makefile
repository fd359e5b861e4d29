# Every target makes its own virtual environment first, so each works as the first command after a clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help demo test check format lint types fast bench clean

help:
	@echo "make demo    simulate, process, train briefly, evaluate, report (a few minutes)"
	@echo "make test    the whole test suite (about eight minutes on two cores)"
	@echo "make check   format, lint, types and fast tests: run it before a commit"
	@echo "make bench   the benchmarks; they print ratios and errors and assert nothing"

$(READY): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("relo needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,cluster,export,test,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/relo demo demo --overwrite

# Two worker processes with one numerical thread each: the suite is many small tests.
test: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: format lint types fast

format: $(READY)
	$(BIN)/ruff format relo tests benchmarks

lint: $(READY)
	$(BIN)/ruff format --check relo tests benchmarks
	$(BIN)/ruff check relo tests benchmarks

types: $(READY)
	$(BIN)/mypy relo

fast: $(READY)
	$(BIN)/python -m pytest -q -m "not slow"

bench: $(READY)
	$(BIN)/python benchmarks/pipeline_accuracy.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/demosaic.py
	$(BIN)/python benchmarks/warp.py
	$(BIN)/python benchmarks/flow.py
	$(BIN)/python benchmarks/pipeline_speed.py
	$(BIN)/python benchmarks/patches.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/fuzz.py
	$(BIN)/python benchmarks/aligned_psnr.py
	$(BIN)/python benchmarks/trainer_overhead.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/regions.py
	$(BIN)/python benchmarks/blurdm.py
	$(BIN)/python benchmarks/instant.py
	$(BIN)/python benchmarks/exprdiff.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
