# Every command of the project. `make` prints this list.

CARGO ?= cargo
PENSTOCK_RECORDS ?= 20000
PENSTOCK_SOAK ?= 100
PENSTOCK_SEEDS ?= 20000
# Arguments of penstock-bench, such as --rounds 1 or --disk-bytes-per-second 200000000.
PENSTOCK_BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help tools build demo bench peers bench-produce bench-scenarios test lint unit file-systems system soak clients adopt clients-full fuzz clean

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

tools: ## check for, and where it can be done install, what the other targets need
	@command -v $(CARGO) >/dev/null || { \
		echo "Rust 1.91 or newer is needed: https://rust-lang.org/tools/install"; exit 1; }
	@command -v cc >/dev/null || { \
		apt-get update -q && apt-get install -q -y --no-install-recommends build-essential; }

build: tools ## build the server and the load generator, optimised, into target/release
	$(CARGO) build --release --workspace --bins

demo: build ## serve 1 GiB by copy, sendfile and chain; print the comparison and draw it
	target/release/penstock-demo

bench: build ## measure the fetch paths beside a raw sendfile server (five minutes); write docs/BENCHMARKS.md
	target/release/penstock-bench own $(PENSTOCK_BENCH)

peers: build ## the same beside Apache Kafka and nginx (ten minutes), which are installed if missing
	command -v nginx >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends nginx-light; }
	tests/clients/run.sh --install-only
	target/release/penstock-bench peers $(PENSTOCK_BENCH)

bench-produce: build ## appending beside Apache Kafka, syncing beside fio, both installed if missing (three minutes)
	command -v fio >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends fio; }
	tests/clients/run.sh --install-only
	target/release/penstock-bench produce $(PENSTOCK_BENCH)

bench-scenarios: build ## idle, silent, slow and greedy connections by the thousand (five minutes)
	target/release/penstock-bench scenarios $(PENSTOCK_BENCH)

test: lint unit system clients ## everything that continuous integration runs

lint: tools ## formatting and lints, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings

unit: tools ## tests of the crates
	$(CARGO) test --workspace --exclude penstock-tests

file-systems: # XFS and btrfs for the tests that fill them; without those programs they skip
	@command -v mkfs.xfs >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends xfsprogs; }
	@command -v mkfs.btrfs >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends btrfs-progs; }

system: build file-systems ## a real server process: kills, faults, strangers, silent peers, no io_uring
	$(CARGO) test --package penstock-tests

soak: build file-systems ## all rounds of the fault tests, of which `system` runs a few (twenty minutes or more, root)
	PENSTOCK_SOAK=$(PENSTOCK_SOAK) $(CARGO) test --package penstock-tests \
		--test crash --test stop --test power_cut --test sync_errors --test read_errors --test file_systems \
		--test retention --test resets --test disk_full --test full_at_any_moment --test write_errors \
		--test whole_topics --test threads --test endings --test greedy_together --test memory_limit --test memory_held \
		-- --nocapture --test-threads 1
	PENSTOCK_SEEDS=$(PENSTOCK_SEEDS) $(CARGO) test --release --package penstock-storage --test faults

clients: build ## real Kafka clients and tools against the server
	PENSTOCK_RECORDS=$(PENSTOCK_RECORDS) tests/clients/run.sh

adopt: build ## ten minutes with a Kafka's directory, retention every second, then Kafka again (fifteen minutes)
	PENSTOCK_ADOPT_SECONDS=600 tests/clients/run.sh test_adopt.py

clients-full: ## the same with a million records a topic (an hour)
	$(MAKE) clients PENSTOCK_RECORDS=1000000

fuzz: tools ## a minute of each fuzz target
	for target in $$(ls fuzz/fuzz_targets | sed 's/\.rs$$//'); do fuzz/run.sh $$target 60 || exit 1; done

clean: ## remove what was built and measured
	$(CARGO) clean
	rm -rf demo-out bench-out
