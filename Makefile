# What one types here. Needs Python 3.11 or newer and nothing else; the rest is installed into .venv.
#   PORT=, A2A_MOCK_PORT=   where `make run` listens (8000, 8001)
#   TESTS=                  what `make test` runs (all)
#   WORKERS=                how many processes run the tests, each with a database and services of its own (2; 0: this one alone)
#   PYTHON=                 the Python that makes .venv

.DEFAULT_GOAL := help
.PHONY: help run test check fmt bench playground runtime development

# The oldest first: the pinned versions are those that 3.11 can have. It must be able to make virtual environments.
find_python = for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
	if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$python"; break; fi; done
TESTS ?= tests
WORKERS ?= 2

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: runtime ## the service on http://localhost:8000 (PORT=), with a database, keys and logins of its own, and the sample agent
	@.venv/bin/python -m agentbackend.development
	@DJANGO_DEBUG=true .venv/bin/python manage.py seed_development
	@DJANGO_DEBUG=true exec .venv/bin/python -m agentbackend.development_run

test: development ## all tests (TESTS= for some of them)
	@.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

# `check` and `makemigrations` look at the code only: a key for the moment will do.
check: development ## what must hold before a change goes in: lint, format, types, imports, migrations
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports
	@DJANGO_DEBUG=true DJANGO_SECRET_KEY=for-checks-only .venv/bin/python manage.py check --fail-level WARNING
	@DJANGO_DEBUG=true DJANGO_SECRET_KEY=for-checks-only .venv/bin/python manage.py makemigrations --check --dry-run

fmt: development ## bring the code into its form
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Takes some minutes; wants a machine that does nothing else.
bench: development ## all benchmarks (benchmarks/README.md)
	@for script in workload_w streams_at_once model_port durability recovery_time doorbells; do \
		echo "# $$script"; .venv/bin/python -m benchmarks.$$script || exit 1; done

playground: ## bundle the playground's scripts (needs Node 20 or newer)
	cd orchestration/playground && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent build

editor: ## bundle the JSON editor of the console's tool pages (needs Node 20 or newer)
	cd tools/console && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent build

runtime:
	@python="$$($(find_python))"; $(say_without_python); exec "$$python" .ci/install.py requirements.txt

development:
	@python="$$($(find_python))"; $(say_without_python); exec "$$python" .ci/install.py requirements-dev.txt

say_without_python = if [ -z "$$python" ]; then \
	echo 'Python 3.11 or newer is needed, with its venv module (Debian: python3-venv). PYTHON=/path/to/python chooses one.' >&2; \
	exit 1; fi
