# `make demo`, `make gpu-check` and the tests need Python 3.11, git and make; they install the rest into .venv.
# As root, the tests also install what is missing of what its hosts are made with (sshd, rsync, shells), Chromium for the
# tests of the dashboard, and Prometheus, by apt-get.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SANDBOX := $(VENV)/demo

# Neither packages of another project nor the person's way of installing count for the environment in .venv.
unexport PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONDONTWRITEBYTECODE PYTHONSAFEPATH PYTHONWARNINGS PIP_PREFIX PIP_TARGET PIP_USER

PYTEST = $(BIN)/python -X utf8 -m pytest -q -rs -p no:cacheprovider $(CHOICE)

# What is run side by side, in this order: the longest begin early. Each takes one processor at most, so none may be long.
SESSIONS := test-sandbox test-hosts-a test-control-plane test-service test-hosts-l test-commands test-unit test-controller \
	test-rest check

.PHONY: demo gpu-check test test-all $(SESSIONS) docs picture chaos bench clean

demo: $(VENV)/.demo
	@BIN=$(BIN) SANDBOX="$(CURDIR)/$(SANDBOX)" sh examples/demo.sh

# UGRO against the driver, torch and NCCL of a machine with a GPU; CAPTURE=DIR keeps outputs of nvidia-smi.
gpu-check: $(VENV)/.demo
	@$(BIN)/ugro check --gpu $(if $(CAPTURE),--capture "$(CAPTURE)")

# Side by side, since each waits as much as it works; make names those that failed. Each has hosts and folders of its own.
# All sandboxes are one session's: their jobs look for free ports on the same loopback.
# `make test` leaves out what is marked long, `make test-all` nothing.
test: CHOICE := -m "not long"
test test-all: $(VENV)/.test
	@$(MAKE) --no-print-directory --jobs=4 --keep-going --output-sync 'CHOICE=$(CHOICE)' $(SESSIONS)

ON_SANDBOX := tests/browser/test_dashboard_on_sandbox.py
CONTROLLER := tests/unit/control_plane/controller
COMMANDS   := tests/unit/cli tests/unit/api_server

test-sandbox: $(VENV)/.test
	$(PYTEST) tests/sandbox $(ON_SANDBOX)

test-control-plane: $(VENV)/.test
	$(PYTEST) --ignore=$(CONTROLLER) tests/unit/control_plane

test-controller: $(VENV)/.test
	$(PYTEST) $(CONTROLLER)

test-commands: $(VENV)/.test
	$(PYTEST) $(COMMANDS)

test-unit: $(VENV)/.test
	$(PYTEST) $(foreach others,tests/unit/control_plane $(COMMANDS),--ignore=$(others)) tests/unit

test-service: $(VENV)/.test
	$(PYTEST) tests/service

test-hosts-a: $(VENV)/.test
	$(PYTEST) tests/hosts/test_[a-k]*.py

test-hosts-l: $(VENV)/.test
	$(PYTEST) tests/hosts/test_[l-z]*.py

test-rest: $(VENV)/.test
	$(PYTEST) $(foreach others,sandbox hosts service unit,--ignore=tests/$(others)) --ignore=$(ON_SANDBOX) tests

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@PYTHONPATH=scripts $(BIN)/python -m check_on_node
	@PYTHONPATH=scripts $(BIN)/python -m reference --check

# docs/reference, from the code; `make check` fails where it differs.
docs: $(VENV)/.test
	@PYTHONPATH=scripts $(BIN)/python -m reference

# docs/terminal.svg and docs/dashboard.png, from real runs in sandboxes of their own.
picture: $(VENV)/.test
	$(BIN)/python scripts/picture.py
	$(BIN)/python scripts/dashboard_picture.py

# Random faults against a sandbox of its own, for some minutes: SEED says which, MINUTES of simulated time how many.
# `make chaos LOG=…` lets the faults of a log that an earlier run wrote happen again.
chaos: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),180) $(if $(LOG),--log "$(LOG)")

$(VENV)/.demo: pyproject.toml scripts/venv.sh
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV) && touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[test]' && touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

$(VENV)/.bench: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[bench]' && touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
