# One word for each chore, the same here and in CI. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SERVE ?=
TEST ?=
SOAK ?=

.PHONY: help serve demo test check sbom dashboards proto bench bench-quick soak clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[server,otel]' --group dev
	@touch $@

serve: $(VENV)/.ready ## Start the server on localhost:50051; flags in SERVE="--port 0".
	carousel serve $(SERVE)

demo: $(VENV)/.ready ## A server, a model trained in a minute, two clients, a fork, the metrics that moved.
	carousel demo

test: $(VENV)/.ready ## Run the tests; options in TEST="-k engine", all in one process with TEST="-n 0".
	pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TEST)

check: $(VENV)/.ready ## Everything that must hold besides the tests.
	ruff check .
	ruff format --check .
	mypy
	pyright
	buf lint
	buf breaking --against proto/released.binpb
	tools/check_generated
	tools/check_rules
	python -m tools.supply check

sbom: $(VENV)/.ready ## Write the bill of materials, after every change to constraints.txt.
	python -m tools.supply

dashboards: $(VENV)/.ready ## Write the dashboards of Grafana, after every change to tools/dashboards.
	python -m tools.dashboards

proto: $(VENV)/.ready ## Generate the Python code of the protos.
	tools/generate proto

bench: $(VENV)/.ready ## The benchmark suite, about ten minutes; table in the terminal, JSON beside it.
	python -m tests.bench

bench-quick: $(VENV)/.ready ## The path of a step alone, about two minutes.
	python -m tests.bench --quick

soak: $(VENV)/.ready ## Long runs with an oracle; one of them in SOAK="training --rounds 100".
	python -m tests.soak $(SOAK)

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
