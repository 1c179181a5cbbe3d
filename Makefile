# make quickstart   install into .venv, train a short Slippery Ant, draw it, film it
# make test         install into .venv, run linters and all default tests
# make faults       install, then inject every fault and write the table of docs/reliability.md
# make bench        measure speed against stable-baselines3 and the machine's floor
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_NUM_THREADS = 1

.PHONY: install quickstart test lint check slow faults bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' || \
		{ echo "Python 3.11 to 3.13 is needed; name one with PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

quickstart: install
	$(BIN)/python train.py experiment=quickstart
	$(BIN)/python evaluate.py run --experiment quickstart --video

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

check: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test: lint check

slow: install
	$(BIN)/python -m pytest -n 2 -m slow

faults: install
	$(BIN)/python -m analysis.faults --docs docs/reliability.md

bench: install
	$(BIN)/python -m analysis.throughput --out results/throughput

clean:
	rm -rf $(VENV) build *.egg-info
