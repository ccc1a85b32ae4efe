# Every target sets up what it needs first: .venv and, as root on Debian, missing packages.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
GATEWAY ?= dev
SUITE ?=
ARGS ?=
WORKERS ?= 3
SOAK_SECONDS ?= 300

.PHONY: help run demo test lint bench soak e2e e2e-check format stubs

help: ## This list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## The whole product: gateway on 127.0.0.1:8000, admin API on 127.0.0.1:9091.
	@.ci/set-up redis-server
	@exec $(BIN)/canary-dev-stack run $(ARGS)

demo: ## Two minutes: a release by hand, then two that move by themselves.
	@.ci/set-up redis-server
	@exec $(BIN)/canary-dev-stack demo $(ARGS)

test: ## All tests; ARGS="-k name" for some of them, WORKERS=0 for one after the other.
	@.ci/set-up redis-server prometheus 'docker-compose?'
	@E2E_GATEWAY=dev $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: ## Style, types, direction of imports, protos, stubs, shell.
	@.ci/set-up 'shellcheck?'
	@.ci/lint

bench: ## Benchmarks; SUITE=NAME for one of them.
	@.ci/set-up redis-server
	@.ci/bench $(SUITE)

soak: e2e-check ## Memory under load and reloads; SOAK_SECONDS=300, GATEWAY=dev or kong.
	@.ci/set-up redis-server
	@E2E_GATEWAY=$(GATEWAY) SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/system/test_soak.py $(ARGS)

e2e: e2e-check ## End-to-end tests; GATEWAY=dev, kong (on PATH) or compose (needs Docker).
	@.ci/set-up redis-server
	@E2E_GATEWAY=$(GATEWAY) $(BIN)/python -m pytest tests/e2e $(ARGS)

e2e-check:
	@.ci/gateway-check $(GATEWAY)

format: ## Format Python and protos.
	@.ci/set-up
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .
	@cd protos && ../$(BIN)/buf format -w

stubs: ## Make the Python stubs from the protos.
	@.ci/set-up
	@protos/generate.sh
