# Every cargo call has the same profile, the same packages and so the same
# features: RocksDB takes ten minutes to compile and is compiled once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(HOME)/.cache/tepui-target
export TEPUI_TOOLS ?= $(HOME)/.cache/tepui-tools
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin:$(TEPUI_TOOLS)/venv/bin:$(TEPUI_TOOLS)/bin
export GOTOOLCHAIN := local
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUST_BACKTRACE

LOCKED ?=
ALL := --release --workspace $(LOCKED)
SCRIPTS := .ci/run deploy/setup.sh deploy/demo/run.sh deploy/kubernetes/make-token.sh deploy/kubernetes/test.sh
OLD_GO := /usr/lib/go-1.19/bin/go

.PHONY: help setup build demo soak test test-rust test-go test-kubernetes check lint docs bless bench bench-store bench-anomaly fmt

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing on this machine, or say what to type
	@deploy/setup.sh

build: setup ## build all programs, tests and benches
	cargo build $(ALL) --all-targets

demo: build ## see a spin found, in about four minutes (KEEP=1 leaves it running)
	@deploy/demo/run.sh

soak: build ## the demonstration with the repaired service watched for five minutes
	@SOAK=1 deploy/demo/run.sh

test: test-rust test-go test-kubernetes ## run every test

test-rust: build
	cargo test $(ALL)

test-go: setup
	cd deploy/demo && go vet ./... && go test -count=1 ./...
	if [[ -x $(OLD_GO) ]]; then cd deploy/demo && $(OLD_GO) build ./...; fi

test-kubernetes: setup
	deploy/kubernetes/test.sh

check: lint test docs ## everything a change must pass

lint: setup ## formatting, clippy, licences and sources, shell scripts
	cargo fmt --all --check
	cargo clippy $(ALL) --all-targets -- -D warnings
	cargo deny $(LOCKED) check licenses bans sources
	shellcheck $(SCRIPTS)
	test -z "$$(gofmt -l deploy/demo)" || { gofmt -d deploy/demo; exit 1; }

docs: setup ## build the API documentation; a warning is an error
	RUSTDOCFLAGS='-D warnings' cargo doc $(ALL) --no-deps

bless: setup ## accept the present output as golden; read the diff afterwards
	UPDATE_EXPECT=1 cargo test $(ALL)

bench: setup ## run the benchmarks
	cargo bench --workspace $(LOCKED)

# Databases of the month row take some 20 GB and are removed afterwards.
bench-store: build ## measure the store against its targets (ROW=name,name for some rows), up to 75 minutes
	@mkdir -p $(CARGO_TARGET_DIR)/bench-store
	@$(CARGO_TARGET_DIR)/release/bench-store --folder $(CARGO_TARGET_DIR)/bench-store $(if $(ROW),--row $(ROW))

bench-anomaly: build ## measure the detectors against their targets (ROW=name,name, SEED=n), some minutes
	@$(CARGO_TARGET_DIR)/release/bench-anomaly $(if $(ROW),--row $(ROW)) $(if $(SEED),--seed $(SEED))

fmt: setup ## format all code
	cargo fmt --all
	gofmt -w deploy/demo
