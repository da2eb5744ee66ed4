# Every target does its own set-up first; 'make help' lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
CODE := analysis probes servers tests tracer
MODELS ?= blocking threads nonblocking select poll epoll
KERNEL ?= 6.1

export PYTHONNOUSERSITE := 1

LINT := $(BIN)/ruff check $(CODE) && $(BIN)/ruff format --check $(CODE) && $(BIN)/mypy

# Under sudo everything made here goes to the caller, however the recipe ends.
OWN := trap '.ci/setup own' EXIT

.PHONY: help setup demo test check format bench soak lab accuracy wheel man clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: ## install what is missing: BCC, .venv, the pinned Python packages, iophase
	@.ci/setup run

# Where BPF is refused, root or not, the same runs in a kernel of its own.
demo: ## six reference servers under load, traced: the wait-versus-copy table (root, or QEMU)
	@.ci/setup run
	@$(OWN); if $(BIN)/iophase doctor >/dev/null; then $(BIN)/iophase run $(MODELS); exit; fi; \
	echo "make demo: $$($(BIN)/iophase doctor | sed -n 's/^  missing *//p' | head -n 1)" >&2; \
	[ "$$(id -u)" = 0 ] || command -v qemu-system-x86_64 >/dev/null || \
	    { echo "make demo: tracing needs root: sudo make demo" >&2; exit 1; }; \
	.ci/setup lab; \
	echo "make demo: so the same runs in the lab, with kernel $(KERNEL), emulated: slower" >&2; \
	$(BIN)/iophase lab $(KERNEL) -- run $(MODELS)

test: ## the linters, the types and the whole test suite
	@.ci/setup dev
	@$(OWN); failed=0; $(LINT) || failed=1; $(BIN)/python -m pytest || failed=1; exit $$failed

check: ## the linters and the types alone
	@.ci/setup dev
	@$(OWN); $(LINT)

format: ## bring the code into its one format
	@.ci/setup dev
	@$(OWN); $(BIN)/ruff check --fix $(CODE); $(BIN)/ruff format $(CODE)

bench: ## what tracing costs, and how fast the tools are; takes minutes (root)
	@.ci/setup dev
	@$(OWN); failed=0; $(BIN)/python -m pytest -s --timeout=0 tests/bench/bench_*.py || failed=1; \
	for script in $$(grep -l __main__ tests/bench/bench_*.py); do \
	    echo "== $$script"; $(BIN)/python "$$script" || failed=1; \
	done; exit $$failed

soak: ## every server under clients that misbehave in every way, for a minute each
	@.ci/setup dev
	@$(OWN); $(BIN)/python -m tests.servers.soak

lab: ## the tests of every backend in another kernel, in QEMU: make lab KERNEL=5.10
	@.ci/setup dev
	@$(OWN); IOPHASE_REQUIRE_LIVE=1 IOPHASE_LAB_KERNELS=$(KERNEL) \
	    $(BIN)/python -m pytest -s tests/tracer/test_kernels.py

accuracy: ## what each backend says of one workload in another kernel: make accuracy KERNEL=6.1
	@.ci/setup dev
	@$(OWN); $(BIN)/iophase lab --exec $(KERNEL) -- $(BIN)/python -m tests.matrix.accuracy

wheel: ## build/iophase-*.whl
	@.ci/setup run
	@$(OWN); $(BIN)/pip wheel -q --no-deps --no-build-isolation -w build .

man: ## build/iophase.1, and build/completions/ for bash, zsh and tcsh
	@.ci/setup dev
	@mkdir -p build/completions
	@$(OWN); $(BIN)/argparse-manpage --module tracer.cli \
	    --function build_parser --project-name iophase --manual-title "User Commands" --output build/iophase.1; \
	for shell in bash zsh tcsh; do \
	    $(BIN)/shtab --shell=$$shell tracer.cli.build_parser >build/completions/iophase.$$shell; \
	done

clean: ## remove what was made here, but no trace
	@rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
