# fieldsync. `make demo` shows it, `make test` proves it; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Debian's own python3 loads SQLite extensions; many others are built without.
PYTHON    ?= /usr/bin/python3
CARGO     ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
PG_CONFIG ?= $(shell command -v pg_config || echo /usr/bin/pg_config)
PREFIX    ?= /usr/local
DESTDIR   ?=

# The version is written once, in the workspace.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
TARGET  := $(or $(CARGO_TARGET_DIR),target)

PG_MAJOR      := $(shell $(PG_CONFIG) --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
HUB_DIR        := $(TARGET)/pg$(PG_MAJOR)
HUB_LIBRARY    := $(HUB_DIR)/pg_fieldsync.so
HUB_SQL        := $(HUB_DIR)/pg_fieldsync--$(VERSION).sql
HUB_CONTROL    := $(HUB_DIR)/pg_fieldsync.control
DEVICE_LIBRARY := $(TARGET)/release/sqlite_fieldsync.so
# For another platform: make static STATIC_TARGET=aarch64-apple-ios
STATIC_TARGET  ?=
STRIP          ?= strip
STATIC_DIR     := $(TARGET)/static$(addprefix /,$(STATIC_TARGET))
STATIC_LIBRARY := $(STATIC_DIR)/libsqlite_fieldsync.a

# pgrx's bindings are made from this pg_config; another path would rebuild them.
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)
HUB_FEATURES    = --no-default-features --features pg$(PG_MAJOR)
# Linked against the system's SQLite instead of the host's function table: how unit tests run.
LINKED_FEATURES = --no-default-features --features linked

sources = Cargo.toml Cargo.lock $(wildcard $1/Cargo.toml) $(shell find $1 -name '*.rs' -o -name '*.sql' -o -name '*.bin')
CORE_SOURCES   := $(call sources,fieldsync_core)
HUB_SOURCES    := $(CORE_SOURCES) $(call sources,pg_fieldsync) $(wildcard sql/hub/*.sql)
DEVICE_SOURCES := $(CORE_SOURCES) $(call sources,sqlite_fieldsync) $(wildcard sql/device/*.sql)
HUB_SQL_PARTS  := $(sort $(wildcard sql/hub/*.sql))
HUB_UPGRADES   := $(sort $(wildcard sql/hub/upgrade/*.sql))

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @

.PHONY: deps
deps: ## install what is missing (Debian: apt, with sudo only for that)
	@./tests/deps

# A second make builds: only then is the pg_config known that `deps` may just have installed.
.PHONY: build build-hub build-device files-hub files-device
build: deps ## build both extensions
	@$(MAKE) --no-print-directory files-hub files-device
build-hub: deps
	@$(MAKE) --no-print-directory files-hub
build-device: deps
	@$(MAKE) --no-print-directory files-device
files-hub: $(HUB_LIBRARY) $(HUB_SQL) $(HUB_CONTROL)
files-device: $(DEVICE_LIBRARY)

$(HUB_LIBRARY): $(HUB_SOURCES) Makefile
	@mkdir -p $(@D)
	$(CARGO) build --locked --release -p pg_fieldsync $(HUB_FEATURES)
	install -m755 $(TARGET)/release/libpg_fieldsync.so $@

$(HUB_SQL): $(HUB_SQL_PARTS) Cargo.toml Makefile
	@mkdir -p $(@D)
	@{ echo '\echo Use "CREATE EXTENSION pg_fieldsync" to load this file. \quit'; cat $(HUB_SQL_PARTS); } > $@

$(HUB_CONTROL): Cargo.toml Makefile
	@mkdir -p $(@D)
	@printf '%s\n' \
	  "comment = 'sync for field devices: the hub'" \
	  "default_version = '$(VERSION)'" \
	  "module_pathname = '\$$libdir/pg_fieldsync'" \
	  "relocatable = false" \
	  "superuser = true" > $@

# The device's library is called by the name that users load; SQLite derives the entry point from it.
$(DEVICE_LIBRARY): $(DEVICE_SOURCES) Makefile
	$(CARGO) build --locked --release -p sqlite_fieldsync
	install -m755 $(TARGET)/release/libsqlite_fieldsync.so $@

# For hosts that cannot load extensions, and for those that link their own SQLite (see fieldsync.h).
.PHONY: static
static: $(STATIC_LIBRARY) ## the device's end as a static library with its C header, for iOS and embedded hosts
	@echo $(STATIC_DIR)
$(STATIC_LIBRARY): $(DEVICE_SOURCES) sqlite_fieldsync/include/fieldsync.h Makefile
	$(CARGO) rustc --locked --release -p sqlite_fieldsync $(LINKED_FEATURES) --crate-type staticlib \
	  $(addprefix --target ,$(STATIC_TARGET))
	install -d $(STATIC_DIR)
	install -m644 $(TARGET)$(addprefix /,$(STATIC_TARGET))/release/libsqlite_fieldsync.a sqlite_fieldsync/include/fieldsync.h $(STATIC_DIR)/
	@# Three quarters of it are there for a debugger. STRIP: the target's own, where this machine's does not know its format.
	$(STRIP) -S $(STATIC_LIBRARY)

PG_LIBRARY_DIR   = $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)
PG_EXTENSION_DIR = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension

.PHONY: install
install: $(HUB_LIBRARY) $(HUB_SQL) $(HUB_CONTROL) ## install the hub's extension: make install PG_CONFIG=/path/to/pg_config
	@test -n "$(PG_MAJOR)" || { echo "make install: cannot run $(PG_CONFIG); name yours with PG_CONFIG=..." >&2; exit 1; }
	@# `install` makes a new inode: overwriting a library in place kills the backends that have it mapped.
	install -d '$(PG_LIBRARY_DIR)' '$(PG_EXTENSION_DIR)'
	install -m755 $(HUB_LIBRARY) '$(PG_LIBRARY_DIR)/'
	install -m644 $(HUB_CONTROL) $(HUB_SQL) $(HUB_UPGRADES) '$(PG_EXTENSION_DIR)/'

.PHONY: install-device
install-device: $(DEVICE_LIBRARY) ## install the device's extension into PREFIX/lib (default /usr/local)
	install -d '$(DESTDIR)$(PREFIX)/lib'
	install -m755 $(DEVICE_LIBRARY) '$(DESTDIR)$(PREFIX)/lib/'

.PHONY: demo
demo: build ## three field teams, one hub, real data
	@$(PYTHON) tests/demo

.PHONY: test test-core test-device test-e2e
test: test-core test-device test-e2e ## every test, on a private hub
test-core:
	$(CARGO) test --locked --release -p fieldsync_core -p fieldsync_sim
	@# The merge rules a second time, written from the words alone: both must decide alike.
	$(CARGO) run --quiet --locked --release -p fieldsync_sim --bin oracle_cases -- --from 0 --count 20000 \
	  | $(PYTHON) tests/oracle/compare.py
test-device: deps
	$(CARGO) test --locked --release -p sqlite_fieldsync $(LINKED_FEATURES)
# PYTEST_ARGS="-k roundtrip -x" narrows it down; TEST_JOBS=0 runs them in one process, which -s and --pdb need.
# Each process has a private hub of its own. More than four of them would only wait for the disk.
TEST_JOBS ?= $(shell jobs=$$(nproc 2>/dev/null || echo 1); echo $$(( jobs < 4 ? jobs : 4 )))
test-e2e: build
	$(PYTHON) -m pytest -q -n $(TEST_JOBS) $(PYTEST_ARGS) tests

.PHONY: bench
bench: build ## every figure, each against something measured in the same run (QUICK=1: in two minutes)
	@QUICK=$(QUICK) $(PYTHON) tests/bench/run

.PHONY: soak
# Hours of everything that is drawn from seeds, with seeds that nobody has seen. Stops at the first finding, which says how to
# replay it; so does the line that this begins with. SOAK_SECONDS=600 for ten minutes of simulation and a little of the rest.
SOAK_SEED    := $(or $(SOAK_SEED),$(shell date +%s))
SOAK_SECONDS ?= 14400
soak: build ## hours of simulation, full histories, crashes and faults, with new seeds
	@echo 'again: make soak SOAK_SEED=$(SOAK_SEED) SOAK_SECONDS=$(SOAK_SECONDS)'
	nice $(CARGO) run --quiet --locked --release -p fieldsync_sim --bin simulate -- \
	  --from $(SOAK_SEED)000000 --count 1000000000 --seconds $(SOAK_SECONDS)
	nice $(CARGO) run --quiet --locked --release -p fieldsync_sim --bin oracle_cases -- \
	  --from $(SOAK_SEED)000000 --count $$(( $(SOAK_SECONDS) * 100 )) | nice $(PYTHON) tests/oracle/compare.py
	FIELDSYNC_HISTORIES=$(SOAK_SEED):$$(( $(SOAK_SECONDS) / 10 )) nice $(PYTHON) -m pytest -q -x tests/test_histories.py
	FIELDSYNC_CRASH_SEED=$(SOAK_SEED) FIELDSYNC_CRASH_CUTS=$$(( $(SOAK_SECONDS) / 300 + 2 )) FIELDSYNC_CRASH_STRIDE=1 \
	  nice $(PYTHON) -m pytest -q -x -s tests/test_crash_points.py
	FIELDSYNC_FAULT_STRIDE=1 FIELDSYNC_FAULT_FIRST=$(SOAK_SEED) FIELDSYNC_FAULT_POINTS=$$(( $(SOAK_SECONDS) / 10 + 40 )) \
	  nice $(PYTHON) -m pytest -q -x -s tests/test_faults.py
	FIELDSYNC_HUB_KILL_SEED=$(SOAK_SEED) FIELDSYNC_HUB_KILLS=$$(( $(SOAK_SECONDS) / 60 + 10 )) \
	  nice $(PYTHON) -m pytest -q -x -s tests/test_hub_faults.py

.PHONY: fuzz
# FUZZ_EXECUTIONS=100000000 FUZZ_SEED=2 for longer; `cargo +nightly fuzz run open_blob` in fieldsync_core is guided by coverage.
FUZZ_EXECUTIONS ?= 1000000
FUZZ_SEED       ?= 1
fuzz: ## hostile blobs with right checksums, against the decoder
	$(CARGO) run --locked --release -p fieldsync_core --example hammer -- $(FUZZ_EXECUTIONS) $(FUZZ_SEED)

.PHONY: lint lint-now
lint: deps ## rustfmt, clippy and rustdoc, warnings as errors
	@$(MAKE) --no-print-directory lint-now
lint-now:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked -p fieldsync_core -p fieldsync_sim --all-targets -- -D warnings
	$(CARGO) clippy --locked -p sqlite_fieldsync -- -D warnings
	$(CARGO) clippy --locked -p sqlite_fieldsync $(LINKED_FEATURES) --all-targets -- -D warnings
	$(CARGO) clippy --locked -p pg_fieldsync $(HUB_FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps -p fieldsync_core -p fieldsync_sim
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps -p sqlite_fieldsync
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps -p pg_fieldsync $(HUB_FEATURES)

.PHONY: clean
clean: ## remove everything that was built here
	-@./tests/hub stop 2>/dev/null
	$(CARGO) clean
	rm -rf .hub
