# Every target sets up what it needs, in virtual environments inside the checkout. That takes Python
# 3.10 or newer, and PyPI for the rest.

# The interpreter behind VENV, read when that is made.
PYTHON ?= python3
# Further arguments for pytest: make test ARGS="-k greet"
ARGS ?=
# Where notes and users listen, on loopback.
PORT ?= 8000

# tests/versions.py has one for each Python.
VENV := .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Most tests wait for sockets. Those of one file share their servers.
PYTEST := $(BIN)/python -m pytest --numprocesses=4 --dist=loadfile

# Each of these directories holds proto/ and, once generated, gen/.
PROTO_ROOTS := $(patsubst %/proto,%,$(wildcard tests/proto tests/benchmarks/proto samples/*/proto))
GENERATED := $(PROTO_ROOTS:%=%/gen/.ready)
GENERATOR := $(shell find connect_sync/codegen -name '*.py' 2>/dev/null)

# For tools that look on PATH: protoc for its plugin, pyright for the Python to look through.
ON_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"
# Unless told not to, pyright's wrapper asks PyPI for newer releases of itself.
PYRIGHT := $(ON_PATH) PYRIGHT_PYTHON_IGNORE_WARNINGS=1 pyright

.DEFAULT_GOAL := help
.PHONY: help demo notes users test check conformance test-versions test-system bench bench-guard clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
	    while IFS='|' read -r target text; do printf '%-15s %s\n' "$$target" "$$text"; done

demo: $(GENERATED) $(READY) ## Serve the greeting sample and call it
	PYTHONPATH=$(CURDIR)/samples/greet/gen $(BIN)/python samples/greet/demo.py

notes: $(GENERATED) $(READY) ## Serve the Flask sample and call it
	$(BIN)/python samples/notes/notes_demo.py $(PORT)

users: $(GENERATED) $(READY) ## Serve the Django sample
	PYTHONPATH=$(CURDIR)/samples/users/gen $(BIN)/python samples/users/serve_users.py $(PORT)

test: $(GENERATED) $(READY) ## Run the unit and integration tests
	$(PYTEST) $(ARGS)

check: $(GENERATED) $(READY) ## Lint, and check formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYRIGHT)
	$(PYRIGHT) --ignoreexternal --verifytypes connect_sync
	$(PYRIGHT) --ignoreexternal --verifytypes wsgi_adapters

conformance: $(READY) ## Run the official conformance suite against both sides
	$(BIN)/python -m tests.conformance.run
	MYPYPATH=tests/conformance/gen $(BIN)/mypy tests/conformance/*.py

test-versions: ## Run the tests on each other Python from 3.10 to 3.14 that is there
	$(PYTHON) tests/versions.py

test-system: $(GENERATED) $(READY) ## Run the tests with clients and servers of other makers
	$(BIN)/python -m tests.system.prepare
	$(PYTEST) tests/system $(ARGS)

bench: $(GENERATED) $(READY) ## Run the benchmarks
	$(BIN)/python -m tests.benchmarks

bench-guard: $(GENERATED) $(READY) ## Count the instructions of the hot paths, and compare with the record
	$(BIN)/python -m tests.benchmarks.guard

clean: ## Remove environments, generated code, builds and caches
	rm -rf .venv .venvs tests/gen tests/benchmarks/gen tests/conformance/gen samples/*/gen build dist *.egg-info
	rm -rf tests/system/node/gen tests/system/node/node_modules tests/system/go/gen
	rm -rf samples/notes/instance samples/users/users.sqlite3*
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find connect_sync wsgi_adapters tests samples -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted installation starts over.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "$(PYTHON) is not Python 3.10 or newer; name one that is: make PYTHON=python3.X" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu, install what it lacks:" >&2; \
	    $(PYTHON) -c 'import sys; print("apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2; \
	    exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# For every proto file below one root: Python, its type stubs, and the Connect code.
define generate
$(1)/gen/.ready: $(shell find $(1)/proto -name '*.proto') $(GENERATOR) $(READY)
	rm -rf $(1)/gen
	mkdir $(1)/gen
	$$(ON_PATH) $(BIN)/python -m grpc_tools.protoc -I $(1)/proto \
	    --python_out=$(1)/gen --pyi_out=$(1)/gen --connect-sync_out=$(1)/gen \
	    $$(filter %.proto,$$^)
	@touch $$@
endef
$(foreach root,$(PROTO_ROOTS),$(eval $(call generate,$(root))))
