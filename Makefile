.DEFAULT_GOAL := help
.PHONY: help setup up demo test lint format proto lock bench clean

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

proto: setup ## Generate stubs from the contracts; a change that breaks clients is refused
	@exec scripts/proto $(ARGS)

lock: ## Pin what pyproject.toml files ask for; ARGS=--upgrade takes the newest
	@scripts/lock $(ARGS)
	@scripts/setup

bench: setup ## Measure against the peers
	@exec $(bin)/python -m benchmarks $(ARGS)

clean: ## Remove what was made
	@rm -rf .venv .mysingle .*_cache logs dist build uv.lock
	@find packages services tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
