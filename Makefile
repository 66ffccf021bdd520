.DEFAULT_GOAL := help
.PHONY: help setup up demo test lint format proto baseline lock bench clean

bin := .venv/bin
export PATH := $(CURDIR)/$(bin):$(PATH)

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## Make .venv with everything in it
	@scripts/setup

up: setup ## Start the platform; Ctrl-C stops it
	@exec $(bin)/mysingle up $(ARGS)

demo: setup ## Start it on free ports, walk through it, stop it
	@exec $(bin)/mysingle demo $(ARGS)

test: setup lint ## Check style and types, run every test
	@exec $(bin)/pytest $(ARGS)

lint: setup ## Check style and types
	@$(bin)/ruff check --quiet .
	@$(bin)/ruff format --check --quiet .
	@$(bin)/mypy

format: setup ## Put the code in shape
	@$(bin)/ruff check --fix --quiet .
	@$(bin)/ruff format --quiet .

proto: setup ## Generate stubs from the contracts
	@$(bin)/mysingle proto

baseline: setup ## Accept today's contracts as what later ones must not break
	@scripts/baseline

lock: setup ## Pin the newest versions in requirements.lock
	@$(bin)/uv lock --quiet --upgrade
	@$(bin)/uv export --quiet --format requirements.txt --no-emit-workspace --no-header \
	  --all-packages --all-groups --all-extras --output-file requirements.lock

bench: setup ## Measure against the peers
	@exec $(bin)/python -m benchmarks $(ARGS)

clean: ## Remove what was made
	@rm -rf .venv .mysingle logs dist build uv.lock
