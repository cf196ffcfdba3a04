.DEFAULT_GOAL := help
.PHONY: help run test check lint fmt images up down logs trace e2e faults fuzz interop instructions bench

help: ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

run: ## Run both services on this machine (release build) until Ctrl-C
	@cargo build --release --package service1 --package service2
	@scripts/run

test: ## Run all tests that need nothing but Rust
	cargo test --workspace

check: ## Check what every change must pass: format, clippy, unit and process tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- --deny warnings
	cargo test --workspace --lib --bins --test processes

lint: ## Check formatting, clippy and docs; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps

fmt: ## Format the code
	cargo fmt --all

# `docker compose build` takes BuildKit from the buildx plugin; older engines have it built in.
images: ## Build the images of both services
	@if docker buildx version >/dev/null 2>&1; then docker compose build; else \
	  for service in service1 service2; do \
	    DOCKER_BUILDKIT=1 docker build --target $$service --tag mesh-$$service . || exit; done; fi

up: images ## Start both services in containers and wait until they are healthy
	docker compose up --detach --wait

down: ## Stop the containers and remove them
	docker compose down

logs: ## Follow the logs of the containers
	docker compose logs --follow

# What ID is, is the caller's: as it is written, never expanded.
trace: override export ID := $(value ID)
trace: ## Show the lines of one request from both services in order of time: make trace ID=…
	@scripts/trace "$$ID"

e2e: images ## Run the tests in containers (needs Docker, and the ports 8080 to 8089)
	cargo test --package tests --features containers --test containers -- --nocapture

faults: ## Run the failure suite: the pair under load, and what breaks around it
	cargo test --release --package tests --features faults --test faults

SECONDS := 60
fuzz: ## Fuzz what clients send, each target for a minute or for SECONDS=…
	scripts/fuzz $(SECONDS)

interop: ## Run the tests against programs of others (needs Python 3, nginx, haproxy, slowhttptest)
	tests/interop/run

bench: ## Compare the pair with its peers and write bench/results (needs wrk; Python 3 for one)
	cargo run --release --package bench

instructions: ## Count the instructions of a request, and fail where they grew (needs valgrind)
	bench/instructions
