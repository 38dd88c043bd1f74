# The commands of a newcomer and of CI. Each brings what it needs first.
#
#   make setup [KERNEL=bookworm|trixie|backports]   everything below; quick when nothing is missing
#   make test | test-fast | test-e2e                all tests; without a guest; with guests
#   make demo | bench | fuzz | lint | doctor | libvfio-user | clean

export KERNEL ?=
NODE := node
# "runner": the other way to read its configuration writes beside it, which a checkout that is read only does not allow.
VITEST := node_modules/.bin/vitest --configLoader runner
# npm says nothing while it tries again. By itself it waits for a minute and more in between: minutes where there is no network.
NPM_FLAGS := --no-audit --no-fund --fetch-retries=2 --fetch-retry-factor=1 --fetch-retry-mintimeout=1000
SOURCES := $(shell find src device-models qemu-scripts images bench test -name '*.ts' 2>/dev/null)
# Stamps tell "done and succeeded" from "was there".
INSTALLED := node_modules/.installed
BUILT := dist/.built

.PHONY: setup build node-version test test-fast test-e2e demo bench fuzz lint doctor libvfio-user clean
.DELETE_ON_ERROR:

setup: build
	@$(NODE) dist/src/cli/main.js setup

build: $(BUILT)

# Each time: another Node may have come to be the one on PATH since.
node-version:
	@src/setup/check-node.sh "$$($(NODE) -p process.versions.node 2>/dev/null)"

# By content: a checkout that touches the lock file is no reason to install again. `npm ci` refuses when the
# registry lacks optional packages of other platforms; `npm install` then takes the same versions.
$(INSTALLED): package-lock.json | node-version
	@sum=$$(sha256sum package-lock.json); \
	if [ -d node_modules ] && [ "$$sum" = "$$(cat $@ 2>/dev/null)" ]; then touch $@; exit; fi; \
	echo 'setup: installing npm packages'; log=$$(mktemp); \
	npm ci $(NPM_FLAGS) >$$log 2>&1 || npm install --no-save $(NPM_FLAGS) >>$$log 2>&1 || \
	  { cat $$log; rm -f $$log; echo "setup: what to do: see whether npm reaches its registry (npm ping)"; exit 1; }; \
	rm -f $$log; echo "$$sum" >$@

$(BUILT): $(INSTALLED) tsconfig.json $(SOURCES)
	@node_modules/.bin/tsc -p tsconfig.json
	@touch $@

test: setup libvfio-user
	$(VITEST) run $(VITEST_ARGS)
	@$(MAKE) --no-print-directory lint

test-fast: build
	$(VITEST) run --project fast $(VITEST_ARGS)

test-e2e: setup libvfio-user
	$(VITEST) run --project 'e2e*' $(VITEST_ARGS)

demo: setup
	$(NODE) dist/src/cli/main.js demo $(DEMO_ARGS)

bench: setup
	$(NODE) dist/bench/main.js $(BENCH_ARGS)

fuzz: build
	$(NODE) dist/test/fuzz/main.js $(FUZZ_ARGS)

lint: $(INSTALLED)
	node_modules/.bin/biome check .

doctor: build
	@$(NODE) dist/src/cli/main.js doctor

libvfio-user: build
	$(NODE) dist/src/setup/libvfio-user-main.js

clean:
	rm -rf dist
