# `make help` says what there is. Everything a target needs that the machine lacks is set up by it, once.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Where downloads, the Python venv and what cargo builds are kept, outside the checkout.
CACHE ?= $(HOME)/.cache/millrace
export CACHE
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(HOME)/.cargo/bin:$(PATH)

PYTHON := $(CACHE)/venv/bin/python
MILLRACE := $(CARGO_TARGET_DIR)/debug/millrace
VERSION := $(shell sed -n 's/^appVersion: //p' charts/millrace/Chart.yaml)
# One set of features for all that is built here, so that nothing is built twice. What it adds, the fault points, does
# nothing unless it is armed through the environment.
BUILD := --workspace --features millrace/fault-points --locked
STEP := scripts/step
# A whole Kubernetes on this machine, for tests: see docs/cluster.md.
CLUSTER := python3 tests/cluster

.PHONY: help setup build demo model-check test test-local test-on-cluster lint docs bench bench-operator s3-gateway cluster-build cluster-up cluster-image cluster-demo cluster-test cluster-down install-yaml

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need: system packages, the Rust toolchain, a Python venv
	@scripts/setup

build: setup ## Build the commands: millrace, millrace-operator and kubectl-millrace
	@$(STEP) "Build millrace" cargo build $(BUILD) --bins

demo: build ## Run a pipeline over a month of real flights and show its result
	@MILLRACE=$(MILLRACE) PYTHON=$(PYTHON) scripts/demo

test: lint docs ## Check formatting, lints, versions and docs, and run every test
	@BUILD="$(BUILD)" MILLRACE=$(MILLRACE) PYTHON=$(PYTHON) scripts/test

test-local: setup ## Run the tests that need no cluster
	@$(STEP) "Build the tests" cargo build $(BUILD) --all-targets
	@MILLRACE=$(MILLRACE) PYTHON=$(PYTHON) $(STEP) "Run the tests" cargo test $(BUILD) --lib --bins --tests --no-fail-fast

test-on-cluster: build ## Run the tests that need a cluster or an S3 server, as root: both are started here
	@BUILD="$(BUILD)" MILLRACE=$(MILLRACE) PYTHON=$(PYTHON) scripts/test-on-cluster

model-check: setup ## Check the checkpoint protocol over more generations, epochs and crashes: minutes
	@$(STEP) "Check the protocol" cargo test $(BUILD) --test checkpoint -- --ignored --nocapture

lint: setup ## Check formatting, clippy with warnings denied, and that big dependencies have one version
	@$(STEP) "Check the formatting" cargo fmt --all --check
	@$(STEP) "Check for one version of each big dependency" python3 scripts/one-version
	@$(STEP) "Clippy" cargo clippy $(BUILD) --all-targets -- -D warnings

docs: setup ## Build the Rust documentation with warnings denied
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(STEP) "Build the documentation" cargo doc $(BUILD) --no-deps

bench: build ## Measure the whole process: events per CPU-second, memory, barrier times
	@MILLRACE=$(MILLRACE) PYTHON=$(PYTHON) scripts/bench

bench-operator: build ## Measure the operator: memory, and writes to an API server of its own, with 1, 100 and 1000 Pipelines
	@MILLRACE=$(MILLRACE) scripts/bench-operator

s3-gateway: ## Build the S3 gateway that the tests of s3:// need, from a Go module: two minutes, once
	@scripts/s3-gateway

install-yaml: ## Write charts/install.yaml anew from the chart, with the helm of `make cluster-build`
	@scripts/install-yaml > charts/install.yaml

cluster-build: ## Build the parts of a Kubernetes cluster from Go modules: half an hour, once
	@$(STEP) "Build the cluster's parts" $(CLUSTER) build

cluster-up: ## Start a Kubernetes cluster on this machine, as root; or check the one that KUBECONFIG names
	@$(CLUSTER) up

cluster-image: build ## Load the images that the chart names into the cluster, from the commands that were built
	@$(CLUSTER) image millrace/runtime:$(VERSION) --binary $(MILLRACE)
	@$(CLUSTER) image millrace/operator:$(VERSION) --binary $(MILLRACE)-operator

cluster-demo: cluster-up cluster-image ## On a cluster of this machine: install, run the flights, edit a Pipeline that runs
	@PYTHON=$(PYTHON) scripts/cluster-demo

cluster-test: ## Show that a cluster works here: start one, use and break it, take it down
	@$(STEP) "Test the cluster" $(CLUSTER) selftest

cluster-down: ## Stop the cluster and remove all it left
	@$(CLUSTER) down
