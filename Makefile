# The one entry to building, testing and installing; `make help` lists the targets.

CARGO ?= cargo
PREFIX ?= /usr/local
# Programs that others start: the worker and the daemon.
LIBEXECDIR ?= $(PREFIX)/libexec/apt-ostree
# Bus, polkit and systemd look for their files below /usr only.
SYSTEM_DATADIR ?= /usr/share
UNITDIR ?= /usr/lib/systemd/system
SYSCONFDIR ?= /etc
DESTDIR ?=
# What `make image` composes, and where to.
TREEFILE ?= examples/minimal.yaml
OUTPUT ?= output
COMPOSE_FLAGS ?=
# More arguments for the test runner, such as a filter.
TEST_FLAGS ?=

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release
DIST := $(TARGET_DIR)/dist
XTASK := $(CARGO) run --quiet --package xtask --

# Puts the directories of the programs into units and activation files.
FILL_PATHS := sed -e 's,@bindir@,$(PREFIX)/bin,g' -e 's,@libexecdir@,$(LIBEXECDIR),g'

# The revision that `apt-ostree --version` shows.
APTOSTREE_GIT ?= $(shell git describe --always --dirty --abbrev=40 --match= 2>/dev/null)
export APTOSTREE_GIT

.PHONY: help image build programs test test-full bench bench-client lint doc dist dist-files generate \
	install install-files install-wrappers deb clean rust deps-build deps-run deps-test deps-image deps-all

# Packages are installed one job at a time, and cargo runs its own jobs.
.NOTPARALLEL:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 16

image: deps-image build ## Compose an example image into output/ and tell how to run it
	$(RELEASE)/apt-ostree compose tree $(TREEFILE) --container --output-dir $(OUTPUT) $(COMPOSE_FLAGS)

build: deps-build programs ## Build the programs

programs:
	$(CARGO) build --release --package apt-ostree --package apt-ostree-worker \
		--package apt-ostreed

test: deps-all ## Run all tests
	scripts/test.sh $(TEST_FLAGS)

test-full: deps-all ## Run all tests with the large package sets and packages of clean roots
	APTOSTREE_TEST_FULL=1 scripts/test.sh $(TEST_FLAGS)

bench: deps-run deps-test build ## Measure against ordinary tools, write docs/benchmarks.md
	$(XTASK) bench

bench-client: deps-run deps-test build ## Measure verbs on a system, write docs/benchmarks-client.md
	$(XTASK) bench-client

lint: deps-build ## Check format, clippy, generated files and mirror names
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	$(XTASK) generate --check
	scripts/check-hosts.sh

generate: deps-build ## Write the treefile reference and its JSON schema again
	$(XTASK) generate

doc: deps-build ## Build the docs book as HTML
	$(XTASK) book $(TARGET_DIR)/book
	@echo "The book is in $(TARGET_DIR)/book/index.html"

dist: deps-build dist-files ## Write man pages and completions

dist-files:
	$(XTASK) dist $(DIST)

install: build dist-files install-files ## Install to $(DESTDIR)$(PREFIX)

# Packages of these Debian releases.
RELEASES ?= bookworm trixie

deb: deps-build deps-test ## Build and try Debian packages of RELEASES, into target/deb
	scripts/make-deb.sh $(RELEASES)

install-files:
	install -D -m 755 $(RELEASE)/apt-ostree $(DESTDIR)$(PREFIX)/bin/apt-ostree
	install -D -m 755 $(RELEASE)/apt-ostree-worker $(DESTDIR)$(LIBEXECDIR)/apt-ostree-worker
	install -D -m 755 $(RELEASE)/apt-ostreed $(DESTDIR)$(LIBEXECDIR)/apt-ostreed
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $(DIST)/man/man1/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 $(DIST)/completions/bash/apt-ostree \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/apt-ostree
	install -D -m 644 $(DIST)/completions/zsh/_apt-ostree \
		$(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_apt-ostree
	install -D -m 644 $(DIST)/completions/fish/apt-ostree.fish \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/apt-ostree.fish
	install -D -m 644 data/treefile.schema.json \
		$(DESTDIR)$(PREFIX)/share/apt-ostree/treefile.schema.json
	install -d $(DESTDIR)$(PREFIX)/share/apt-ostree/treefiles
	install -m 644 examples/*.yaml $(DESTDIR)$(PREFIX)/share/apt-ostree/treefiles
	install -D -m 644 data/dbus/org.aptostree1.xml \
		$(DESTDIR)$(SYSTEM_DATADIR)/dbus-1/interfaces/org.aptostree1.xml
	install -D -m 644 data/dbus/org.aptostree1.conf \
		$(DESTDIR)$(SYSTEM_DATADIR)/dbus-1/system.d/org.aptostree1.conf
	install -D -m 644 data/polkit/org.aptostree1.policy \
		$(DESTDIR)$(SYSTEM_DATADIR)/polkit-1/actions/org.aptostree1.policy
	install -D -m 644 data/apt-ostreed.conf $(DESTDIR)$(SYSCONFDIR)/apt-ostreed.conf
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSTEM_DATADIR)/dbus-1/system-services
	$(FILL_PATHS) data/dbus/org.aptostree1.service.in \
		>$(DESTDIR)$(SYSTEM_DATADIR)/dbus-1/system-services/org.aptostree1.service
	install -m 644 data/systemd/apt-ostreed-automatic.timer $(DESTDIR)$(UNITDIR)/apt-ostreed-automatic.timer
	for unit in apt-ostreed apt-ostreed-automatic apt-ostree-bootstatus; do \
		$(FILL_PATHS) data/systemd/$$unit.service.in \
			>$(DESTDIR)$(UNITDIR)/$$unit.service || exit 1; \
	done
	install -D -m 644 data/systemd/ostree-finalize-staged.service.d/50-apt-ostree.conf \
		$(DESTDIR)$(UNITDIR)/ostree-finalize-staged.service.d/50-apt-ostree.conf

# apt, apt-get and dpkg that know of deployments. They are found before the programs themselves, which
# are in /usr/bin, and so make sense there only.
install-wrappers:
	install -d $(DESTDIR)/usr/sbin
	for name in apt apt-get dpkg; do \
		$(FILL_PATHS) data/wrappers/wrapper.in >$(DESTDIR)/usr/sbin/$$name && \
			chmod 755 $(DESTDIR)/usr/sbin/$$name || exit 1; \
	done

ifeq ($(PREFIX),/usr)
install-files: install-wrappers
endif

clean: ## Remove what was built and composed here
	$(CARGO) clean
	rm -rf $(OUTPUT)

rust:
	@scripts/require-rust.sh

deps-build: rust
	@scripts/install-deps.sh build

deps-run:
	@scripts/install-deps.sh run

deps-test:
	@scripts/install-deps.sh test

deps-image: rust
	@scripts/install-deps.sh build run

deps-all: rust
	@scripts/install-deps.sh build run test

# More targets of the end-to-end tests.
-include tests/tests.mk
