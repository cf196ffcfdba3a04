.DEFAULT_GOAL := help
.PHONY: help run certs new-service template template-image test check lint package public-api fmt images up scale down logs trace e2e swarm manifests faults faults-wire fuzz simulate databases interop others breaks simulate-faults instructions bench

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 17

# off, or on: mutual TLS between the services, with certificates of `certs`.
TLS := off
# 1: the optimised build, as in the images. It takes about three times as long to compile.
RELEASE :=
# The services that run together. `make new-service` adds to them. Not SERVICES: the suites read that.
MESH := service1 service2
PROGRAMS := --package certs $(MESH:%=--package %)
# With the tests, because cargo compiles a crate once more for other features than it has there.
PAIR := $(PROGRAMS) --package tests
run: ## Run the services on this machine until Ctrl-C; TLS=on: with mutual TLS; RELEASE=1: optimised
	@[ -e $${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/service2 ] || \
	  echo "The first build compiles 260 crates: some minutes. After an edit it takes seconds."
	@cargo build $(if $(RELEASE),--release $(PROGRAMS),$(PAIR)) $(MESH:%=--bin %) $(if $(filter on,$(TLS)),--bin certs)
	@TLS=$(TLS) PROFILE=$(if $(RELEASE),release,debug) scripts/run

certs: ## Write certificates for development to target/certs
	cargo run --quiet --package certs -- --dir target/certs $(MESH:%=--service %)

# The caller chooses NAME: make must not expand it.
new-service: override export NAME := $(value NAME)
new-service: ## Write a new service into the workspace: make new-service NAME=orders
	@scripts/new-service "$$NAME"

# The peers of the benchmark have no tests, and all features of tokio.
TESTED := --workspace --exclude plain --exclude rest
test: ## Run the tests that need no more than Rust, make and curl
	cargo test $(TESTED) --no-fail-fast

# `--all-targets` leaves out the suites that only run by name.
define CLIPPY
cargo clippy --workspace --all-features --all-targets -- --deny warnings
cargo clippy --workspace --all-features --test '*' -- --deny warnings
endef

check: ## Run the checks for every change: format, clippy, unit and process tests
	cargo fmt --all --check
	$(CLIPPY)
	cargo test $(TESTED) --no-fail-fast --lib --bins --test processes

# The sides of `common`, each without the others. Only with both does the compiler look for unused code.
FEATURES := none server client client,cli server,client

lint: ## Check formatting, clippy, docs, the public API, the package and licences; warnings are errors
	cargo fmt --all --check
	$(CLIPPY)
	@for features in $(FEATURES); do echo "common with $$features"; \
	  cargo clippy --quiet --package common --no-default-features \
	    --features "$${features#none}" -- --deny warnings || exit; done
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --all-features
	cargo test $(TESTED) --test public_api -- --nocapture
	cargo package --package common --allow-dirty --no-verify
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	  else echo "left out: cargo-deny is not installed, so no licence and no source was checked"; fi

package: ## Check that the package of common compiles on its own
	cargo package --package common --allow-dirty

public-api: ## Write the list of the public items of common anew
	UPDATE_PUBLIC_API=1 cargo test $(TESTED) --test public_api

fmt: ## Format the code
	cargo fmt --all

images: ## Build the images of the services and of certs
	docker compose build

up: ## Build the images, start both services in containers, and wait until they are healthy
	docker compose up --detach --wait

# The caller chooses N: make must not expand it.
scale: override export N := $(value N)
scale: ## Run N replicas of service1 while the containers are up: make scale N=3
	@[ -n "$$N" ] || { echo 'say how many: make scale N=3' >&2; exit 2; }
	docker compose --file docker-compose.yml --file docker-compose.scale.yml up --detach --no-build --no-recreate --scale service1="$$N"

down: ## Stop the containers and remove them
	docker compose down

logs: ## Follow the logs of the containers
	docker compose logs --follow

# The caller chooses ID: make must not expand it.
trace: override export ID := $(value ID)
trace: ## Show what one request did in both services: make trace ID=…; RAW=1: its log lines
	@scripts/trace "$$ID"

e2e: images ## Run the tests in containers (needs Docker, and the ports 8080, 8081, 9080 and 9081)
	cargo test $(PAIR) --test containers -- --nocapture

# The caller chooses EVENT: make must not expand it.
swarm: override export EVENT := $(value EVENT)
swarm: images ## Run the stack on a Docker Swarm of two nodes, and faults around it (needs Docker, as root)
	cargo test $(PAIR) --test swarm -- --nocapture

manifests: ## Check the files of deploy/ against their schemas and the running services (needs Python 3, promtool)
	tests/deploy/run

faults: ## Run the failure suite: faults around the pair under load
	cargo test --profile harness --package tests --test faults

faults-wire: ## Run the rows about drains, GOAWAY, readers and deadlines with a latency of 5 ms (as root)
	@# Within, there is no network to fetch crates from.
	cargo test --quiet --profile harness --package tests --test faults --no-run
	RATE=1gbit tests/wire/run 5 $(MAKE) faults

SECONDS := 60
fuzz: ## Fuzz the input of clients, each target for a minute or for SECONDS=…
	scripts/fuzz $(SECONDS)

# The only seed to run, if it is set.
SEED :=
simulate: ## Run both stacks against generated faults in simulated time, for a minute or for SECONDS=…; SEED=… for one seed
	@SECONDS=$(SECONDS) $(if $(SEED),SEED=$(SEED)) cargo test --quiet --profile harness --package simulation --test seeds

interop: ## Run the tests against other implementations and proxies (needs Python 3, nginx, haproxy, slowhttptest, openssl, testssl; drains: root, iptables)
	tests/interop/run

databases: ## Test the example with PostgreSQL and Redis; says so where one is missing
	cargo fmt --manifest-path examples/ledger/Cargo.toml --check
	CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target/databases} cargo test --locked --manifest-path examples/ledger/Cargo.toml -- --nocapture --test-threads 1

# For example "internal hangs"; by default all.
BREAKS :=
others: ## Compare the client with Envoy and grpcio beside a broken replica (needs Python 3): BREAKS=… for some
	@tests/interop/others $(BREAKS)

template: ## Check that `make new-service` writes a service whose tests pass
	tests/template/run

template-image: ## Check that the image of such a service serves, with mutual TLS (needs Docker)
	tests/template/run image

breaks: ## Break behaviours of common one at a time, and name the tests that notice
	tests/breaks/run

simulate-faults: ## Put faults that common had once back one at a time, and let the simulation find them
	tests/simulation/faults/run

bench: ## Compare the pair with its peers and write bench/results (needs wrk and Python 3)
	cargo run --release --package bench

instructions: ## Count the instructions of a request; fail if they grew (needs valgrind)
	bench/instructions
