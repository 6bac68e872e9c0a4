# The door to everything: `make demo` and `make test` do all the set-up on a fresh Debian 12.
# What is there already is not done again. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

# One job a CPU, and no more than memory allows: the largest translation units take about 1 GiB.
JOBS ?= $(shell awk -v cpus="$$(nproc)" '/^MemAvailable/ { memory = int($$2 / 1048576) } \
  END { jobs = cpus; if (memory < jobs) jobs = memory; print (jobs < 1 ? 1 : jobs) }' /proc/meminfo)
# Seconds a fuzz target; make test-long takes TEST_LONG_FUZZ_SECONDS instead.
FUZZ_SECONDS ?= 30
TEST_LONG_FUZZ_SECONDS ?= 300
MODEL ?=

BUILD := cmake --build --preset
CONFIGURED = build/$(1)/build.ninja
RUN_TESTS := python3 scripts/run_tests.py

.PHONY: all build demo demo-speed test test-long interop measured-boot jobs bench bench-train bench-offload fuzz sanitize check headers \
  layers format format-check tidy package package-test clean help
.PHONY: packages-build packages-test packages-bench packages-fuzz packages-lint packages-package
.PHONY: test-release test-asan-ubsan test-tsan
.SECONDARY:

## all, build: the release build of the program and its tests (build/release)
all: build
build: $(call CONFIGURED,release)
	$(BUILD) release -j $(JOBS)

## demo [DATA=PATH] [MODEL=PATH]: the whole story: three owners, a broker, an attested host and three workers train
## on PneumoniaMNIST (DATA, $PAVISE_DATA, ../shared/data; else on made-up images), and four attacks are refused; a
## report (build/demo). With MODEL, your model is signed and verified first
demo: $(call CONFIGURED,release)
	$(BUILD) release -j $(JOBS) --target pavise pavise-worker lying_worker
	scripts/demo.sh $(if $(DATA),--data '$(DATA)') $(if $(MODEL),--model '$(MODEL)')

## demo-speed [MODEL=PATH]: sign, verify, tamper and refuse, with the speeds; without MODEL, a 2 GiB model that it writes
demo-speed: $(call CONFIGURED,release)
	$(BUILD) release -j $(JOBS) --target pavise
	MODEL='$(MODEL)' scripts/demo_speed.sh

## test: every unit test, the layer and header checks, and the reference tool where it can be had
test: test-release
test-release: build
	$(RUN_TESTS) --preset release ctest layers scripts headers interop kbs-interop measured-boot jobs demo

## test-long: the same, then the sanitizers, 200 kills of the broker and of its store, and longer fuzzing
test-long: test
	$(MAKE) sanitize
	PAVISE_CRASH_ROUNDS=200 build/release/bin/broker_test --gtest_filter='StoreCrashTest.*'
	PAVISE_CRASH_ROUNDS=200 build/release/bin/cli_test --gtest_filter='BrokerCrashTest.*'
	$(MAKE) fuzz FUZZ_SECONDS=$(TEST_LONG_FUZZ_SECONDS)

## interop: both directions against the reference tool (PyPI model-signing, in build/interop-venv), and
## a client of the key broker protocol that shares no code
interop: $(call CONFIGURED,release)
	$(BUILD) release -j $(JOBS) --target pavise
	$(RUN_TESTS) --preset release interop kbs-interop

## measured-boot: host images booted in QEMU with a software TPM, and their evidence appraised
measured-boot: build
	$(RUN_TESTS) --preset release measured-boot

## jobs: pavise job on real components, from sealed assets to a result that is verified offline
jobs: build
	$(RUN_TESTS) --preset release jobs

## bench: the speeds that the README states, measured side by side (16 GiB of disk; 25 for all)
bench: $(call CONFIGURED,release) | packages-bench
	$(BUILD) release -j $(JOBS) --target pavise evidence_bench policy_bench broker_bench \
	  ledger_bench vault_bench
	interop/install.sh || true
	python3 bench/run.py --pavise build/release/bin/pavise --output build/bench

## bench-train [DATA=PATH...] [TRAIN='--steps-only ...']: training under each scheme beside plain training, three seeds; default: the datasets of $PAVISE_DATA
bench-train: $(call CONFIGURED,release) | packages-bench
	$(BUILD) release -j $(JOBS) --target pavise-train pavise
	python3 bench/train.py --pavise build/release/bin/pavise --output build/bench-train \
	  $(foreach data,$(or $(DATA),$(PAVISE_DATA)/pneumoniamnist/pneumoniamnist.npz $(PAVISE_DATA)/cifar-10-batches-bin),--data '$(data)') $(TRAIN)

## bench-offload [WIDTHS=256,768,2048,4096] [NETWORKS=resnet50,vit_base] [ATTENTION=here]: a coordinator beside doing it alone; tables and an SVG
WIDTHS ?= 256,768,2048,4096
NETWORKS ?= resnet50,vit_base
ATTENTION ?= here
bench-offload: $(call CONFIGURED,release) | packages-bench
	$(BUILD) release -j $(JOBS) --target offload_block_bench train_network_bench
	python3 bench/offload.py --program build/release/bin/offload_block_bench --output build/bench-offload --widths '$(WIDTHS)' \
	  --attention '$(ATTENTION)' --network-program build/release/bin/train_network_bench --networks '$(NETWORKS)'

## fuzz [FUZZ_SECONDS=30]: every fuzz target for that long, with its committed corpus
fuzz: $(call CONFIGURED,fuzz)
	$(BUILD) fuzz -j $(JOBS) --target fuzz_targets
	scripts/fuzz.sh build/fuzz $(FUZZ_SECONDS)

## sanitize: every unit test under AddressSanitizer with UBSan, then under ThreadSanitizer
sanitize:
	$(MAKE) test-asan-ubsan
	$(MAKE) test-tsan
test-asan-ubsan test-tsan: test-%: $(call CONFIGURED,%)
	$(BUILD) $* -j $(JOBS)
	$(RUN_TESTS) --preset $* ctest

## check: layers, headers, formatting and clang-tidy, without running a test
check: layers headers format-check tidy
layers: | packages-build
	python3 scripts/check_layers.py
	python3 scripts/check_layers_test.py
headers: $(call CONFIGURED,release)
	python3 scripts/check_headers.py build/release
tidy: $(call CONFIGURED,release) | packages-lint
	python3 scripts/tidy.py build/release

## format, format-check: clang-format over all sources
format: | packages-lint
	git ls-files -co --exclude-standard '*.h' '*.cc' | xargs clang-format -i
format-check: | packages-lint
	git ls-files -co --exclude-standard '*.h' '*.cc' | xargs clang-format --dry-run -Werror

## package: Debian packages of the programs, the worker and the library (build/release/packages)
package: $(call CONFIGURED,release)
	$(BUILD) release -j $(JOBS) --target packaged
	rm -rf build/release/packages
	cd build/release && umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || date +%s) cpack -B packages
## package-test: installs them on a Debian 12 made from nothing (debootstrap, as root) and tries them there
package-test: package | packages-package
	scripts/package_test.sh build/release/packages

## clean: removes build/
clean:
	rm -rf build

## help: this list
help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

# Nothing happens here where no package is missing: neither apt nor the network is touched.
packages-build:
	@scripts/bootstrap.sh build test
packages-bench:
	@scripts/bootstrap.sh build test bench
packages-fuzz:
	@scripts/bootstrap.sh build fuzz
packages-package:
	@scripts/bootstrap.sh build package
packages-lint:
	@scripts/bootstrap.sh build test lint

# Configured once; from then on ninja itself notices changed CMake files.
build/%/build.ninja: CMakePresets.json | packages-build
	cmake --preset $*
	@touch $@
build/fuzz/build.ninja: CMakePresets.json | packages-fuzz
	cmake --preset fuzz
	@touch $@
