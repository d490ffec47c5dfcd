# `make demo` and `make test` set everything up on a machine with Python 3.11 and a package registry.
VENV ?= .venv
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_LIMIT ?= 40

# Where it is set, every process that a test starts would compile torch and the harnesses again, half of its time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint docs mutants clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/vrbench run --ckpt pocket/region --ckpt pocket/top --ckpt pocket/region-pruned-2 \
		--baseline pocket/full --tasks pocket --limit $(DEMO_LIMIT)

test: $(READY)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy vrbench
	$(BIN)/zizmor --offline -q .github/workflows

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

mutants: $(READY)
	$(BIN)/pip install -q 'mutmut>=3.8,<3.9' -c constraints.txt
	$(BIN)/python -m benchmarks.mutants

# Written last, so that its existence means that the environment is whole. Python compiles what is imported when it is;
# pip would compile all of it, which takes a minute.
$(READY): pyproject.toml constraints.txt $(wildcard requirements/*.txt)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install -q --no-compile -r requirements/light.txt -r requirements/dev.txt -c constraints.txt
	$(BIN)/pip install -q --no-compile --no-deps -r requirements/no-deps.txt -c constraints.txt
	$(BIN)/pip install -q --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) build dist site-docs mutants .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
