# Needs Python 3.11 and make; everything else is installed into .venv from requirements.lock.

PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
# Where protos are compared with: what is published, or the local main branch where there is no remote.
BASE ?= $(shell git rev-parse --quiet --verify origin/main >/dev/null 2>&1 && echo origin/main || echo main)

PROMPT ?=
OUT ?= video.mp4
# TRITON=1: transformer and VAE decoder run on a real tritonserver.
TRITON ?=
WITH_TRITON = $(if $(filter 1,$(TRITON)),--triton)

.DEFAULT_GOAL := help
# proto-check rewrites files that the other checks read.
.NOTPARALLEL:
.PHONY: help setup video up down status run fmt lint types imports test test-unit test-e2e test-extras test-images test-gpu images proto proto-lint \
	proto-check proto-breaking ci bench eval crash-matrix histories release-snapshot train gallery lock clean

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it (done by the other targets, and quick when nothing changed)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11, or say make PYTHON=/path/to/it"; exit 1; }
	@echo "setting up .venv; the first time this takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# What was typed travels in the environment, as it was typed: quotes, dollars and all. A shell never sees it.
unexport PROMPT OUT NEGATIVE IMAGE DURATION SEED STEPS PRESET
video: export SOUNDSTAGE_VIDEO_PROMPT := $(value PROMPT)
video: export SOUNDSTAGE_VIDEO_OUT := $(value OUT)
video: export SOUNDSTAGE_VIDEO_NEGATIVE := $(value NEGATIVE)
video: export SOUNDSTAGE_VIDEO_IMAGE := $(value IMAGE)
video: export SOUNDSTAGE_VIDEO_DURATION := $(value DURATION)
video: export SOUNDSTAGE_VIDEO_SEED := $(value SEED)
video: export SOUNDSTAGE_VIDEO_STEPS := $(value STEPS)
video: export SOUNDSTAGE_VIDEO_PRESET := $(value PRESET)
video: $(READY) ## One video: PROMPT="..." [OUT=video.mp4 DURATION=s SEED=n IMAGE=file STEPS=n NEGATIVE="..." PRESET=fast|standard TRITON=1]
	@$(BIN)/python -m deploy.local video $(WITH_TRITON)

up: $(READY) ## Start Temporal and the five services, and keep them running; TRITON=1: and a tritonserver
	@$(BIN)/python -m deploy.local up $(WITH_TRITON)

down: $(READY) ## Stop them
	@$(BIN)/python -m deploy.local down

status: $(READY) ## Show what runs
	@$(BIN)/python -m deploy.local status

run: $(READY) ## One service in the foreground: SERVICE=gateway|encoder|denoiser|audio|muxer
	@test -n "$(SERVICE)" || { echo "say which: make run SERVICE=encoder"; exit 1; }
	@$(BIN)/python -m services.$(SERVICE)

fmt: $(READY) ## Format, and repair what ruff can repair
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

lint: $(READY) ## Check style and format
	@$(BIN)/ruff check . || { echo "repair what can be repaired with: make fmt"; exit 1; }
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; echo "repair it with: make fmt"; exit 1; }

types: $(READY) ## Check types
	@$(BIN)/mypy libs services client training bench deploy/doctor deploy/local deploy/models deploy/triton || { echo "see it again with: make types"; exit 1; }

imports: $(READY) ## Check who may import whom
	@$(BIN)/lint-imports --no-cache || { echo "the rules are in pyproject.toml, importlinter; see it again with: make imports"; exit 1; }

# Two processes with one thread each; tests of one file stay together, as they share servers. Whole stacks go one by one.
QUICK = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m "not gpu and not e2e"
FAILED = { echo "run only what failed with: $(BIN)/pytest --last-failed"; exit 1; }

test: lint types imports proto-lint proto-check ## Everything that CI checks, but for the comparison with main
	@$(QUICK) || $(FAILED)
	@$(BIN)/pytest -q -m e2e || $(FAILED)

test-unit: $(READY) ## The quick tests
	@$(QUICK) || $(FAILED)

test-e2e: $(READY) ## The tests that start every service and make videos
	@$(BIN)/pytest -q -m e2e

test-extras: $(READY) ## Start each service with only its own extra installed, as in its image: minutes and gigabytes; SERVICE=one
	@$(BIN)/python -m tools.extras $(SERVICE)

images: $(READY) ## Build the services' images with podman or docker, and their lists of parts: SERVICE=one
	@$(BIN)/python -m tools.containers.images $(SERVICE)

test-images: $(READY) ## Build every image and make a video in the chart's pods, by podman, as root: half an hour and 15 GB
	@$(BIN)/python -m tools.containers

test-gpu: $(READY) ## The tests that need a GPU
	@$(BIN)/pytest -q -m gpu

proto: $(READY) ## Generate libs/protos from proto/
	@$(BIN)/python -m tools.protos generate

proto-lint: $(READY) ## Check the protos' style
	@$(BIN)/python -m tools.protos lint || { echo "the rules are in buf.yaml; see it again with: make proto-lint"; exit 1; }

proto-check: proto ## Check that libs/protos is what proto/ says
	@test -z "$$(git status --porcelain libs/protos)" || { git status --short libs/protos; \
		echo "the stubs were not generated from these protos; repair it with: make proto && git add libs/protos && git commit"; exit 1; }

proto-breaking: $(READY) ## Check that the protos break nobody who uses those of BASE=origin/main
	@$(BIN)/python -m tools.protos breaking $(BASE) || { echo "add fields instead of changing them; see it again with: make proto-breaking BASE=$(BASE)"; exit 1; }

ci: test proto-breaking ## What CI runs

bench: $(READY) ## Measure: all, or NAME=one; figures go to bench/results
	@$(BIN)/python -m bench $(NAME)

eval: $(READY) ## Judge Diorama's clips against rendered ones; the table goes to models/diorama
	@$(BIN)/python -m bench.evaluation

train: $(READY) ## Train Diorama from nothing (hours; takes up again where it stopped)
	@$(BIN)/python -m training

crash-matrix: $(READY) ## Kill every process of the gateway at every stage, on SQLite and PostgreSQL: no video may be lost
	@$(BIN)/python -m bench.crash_matrix

histories: $(READY) ## Record how videos run today, for the replay test: VERSION=v2
	@test -n "$(VERSION)" || { echo "say which: make histories VERSION=v2"; exit 1; }
	@$(BIN)/python -m tests.services.gateway.record_histories $(VERSION)

release-snapshot: $(READY) ## Record how the chart renders, for the test of upgrades from it: COMMIT=HEAD
	@$(BIN)/python -m tests.deploy.releases $(or $(COMMIT),HEAD)

gallery: $(READY) ## Make the contact sheet of the README
	@$(BIN)/python -m bench.gallery

lock: ## Write requirements.lock from what is installed in .venv
	@{ grep '^#' requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > requirements.lock.part
	@mv requirements.lock.part requirements.lock

clean: ## Remove caches and what was built; .venv, models and .state stay
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
