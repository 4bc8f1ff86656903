# `make` prints what there is. Everything runs in .venv, which is made when it is needed (scripts/venv).
# TALLY_PYTHON=… picks the interpreter for it.

SEEDS ?= 200
SECONDS ?= 60
SCENARIO ?= all
RELATIONSHIPS ?= attendance talk
IMAGE ?= tally:0.1.0
BASE_IMAGE ?= python:3.11-slim
BIN := .venv/bin
export TALLY_PYTHON CLUSTER NAMESPACE IMAGE KIND_IMAGE POSTGRES_IMAGE NATS_IMAGE PROMETHEUS_IMAGE KIND_UP HELM_ARGS
export BASE_IMAGE

.DEFAULT_GOAL := help
.PHONY: help run demo test simulate model chaos-local chaos bench lint alerts trace golden lock clean reset-data run-env test-env \
        chart-docs wheels image kind-up kind-down e2e

help:  ## Print this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: run-env  ## Start PostgreSQL and every service; Ctrl-C stops them. OBSERVE=1: Prometheus, too
	@exec $(BIN)/tally run

demo: run-env  ## In a second terminal: walk through the API and check every answer
	@exec $(BIN)/tally demo

test: test-env  ## Run all tests
	@exec $(BIN)/python -m pytest

simulate: test-env  ## Run the deterministic simulation: SEEDS=200
	@exec $(BIN)/python -m tests.simulation --seeds $(SEEDS)

model: test-env  ## Check the protocol's model in full: a quarter of an hour
	@exec $(BIN)/python -m tests.model --jobs 2

chaos-local: test-env  ## Kill processes at random under load, then the long tests: SECONDS=60 SCENARIO=all (or statements) RELATIONSHIPS=
	@for one in $(RELATIONSHIPS); do \
	    $(BIN)/python -m tests.chaos --relationship $$one --seconds $(SECONDS) --scenario $(SCENARIO) || exit; done
	@exec $(BIN)/python -m pytest -m chaos tests/integration

chaos: test-env  ## Break a release on a kind cluster under load: SECONDS=720 FAULTS= SEED= PLANTED= KEEP=
	@exec $(BIN)/python -m tests.chaos.cluster $(if $(filter file,$(origin SECONDS)),,--seconds $(SECONDS)) \
	    --faults "$(FAULTS)" $(if $(SEED),--seed $(SEED)) $(if $(PLANTED),--planted) $(if $(KEEP),--keep)

bench: test-env  ## Measure the speed and write docs/performance.md
	@$(BIN)/python -m tests.bench && $(BIN)/python -m tests.bench --events && exec $(BIN)/python -m tests.bench.hedges

lint: test-env  ## Check style, types and who imports whom
	@$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

alerts: test-env  ## Run the alerts' own tests with promtool, or say that it is missing
	@command -v promtool >/dev/null || { echo "promtool is missing; it comes with Prometheus (Debian: apt-get install prometheus)"; exit 1; }
	@promtool check rules observability/alerts/*.yaml && cd observability/alerts/tests && promtool test rules *.yaml

trace: test-env  ## Record the trace of docs/traces.md anew; `make golden` then draws it
	@exec $(BIN)/python -m tests.observability.trace

golden: test-env  ## Write the golden files anew, for review as a diff
	@exec $(BIN)/python -m pytest tests/golden --golden

lock:  ## Write requirements/*.txt anew from pyproject.toml (needs uv)
	@uv pip compile $(LOCK) pyproject.toml --extra embedded -o requirements/run.txt
	@uv pip compile $(LOCK) pyproject.toml --extra embedded --extra test -c requirements/run.txt -o requirements/test.txt
	@uv pip compile $(LOCK) pyproject.toml --extra mailbox -c requirements/run.txt -o requirements/image.txt

chart-docs: test-env  ## Write the chart's README and schema anew from its values
	@exec $(BIN)/python scripts/chart_docs.py

image:  ## Build the one image of all services: IMAGE=tally:0.1.0 BASE_IMAGE=python:3.11-slim
	@docker build --tag $(IMAGE) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	    --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

wheels: run-env  ## Fetch the image's packages into dist/wheels, for a build without a network
	@rm -rf dist/wheels
	@$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
	    -r requirements/image.txt -d dist/wheels

kind-up:  ## Tally on a kind cluster: KIND_IMAGE, BASE_IMAGE, POSTGRES_IMAGE, NATS_IMAGE, PROMETHEUS_IMAGE
	@exec k8s/up

kind-down:  ## Delete the kind cluster: CLUSTER=tally
	@exec kind delete cluster --name $(or $(CLUSTER),tally)

e2e: test-env  ## Test on a cluster: that of KUBECONFIG, or a kind cluster with the variables of kind-up
	@exec $(BIN)/python -m pytest tests/e2e -m e2e

LOCK := --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11

clean:  ## Remove .venv and caches; the data stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find tally services tests -name __pycache__ -type d -prune -exec rm -rf {} +

reset-data: run-env  ## Delete the local databases
	@exec $(BIN)/tally reset-data

run-env:
	@scripts/venv requirements/run.txt

test-env:
	@scripts/venv requirements/test.txt
