# `make demo` and `make test` set everything up by themselves: they need Python 3.11 or newer, make, and PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow docs lint types format clean

demo: $(READY)  ## fine-tune, evaluate, export and serve, on real digit scans
	$(BIN)/python examples/digits.py

test: lint types  ## everything CI runs; tests wait for processes of their own, so three at a time keep two cores busy
	$(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: $(READY)  ## what takes minutes, one at a time: every backbone (the largest take many GB), drills, several processes
	$(BIN)/python -m pytest -m slow

docs: $(READY)  ## the documentation as a site, in site/
	$(BIN)/zensical build --strict

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kerazoo needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo
