# Tasks of the project; `make help` lists them.
SHELL := /bin/bash
GO ?= go
BIN := bin/slipway

.DEFAULT_GOAL := help
.PHONY: help build demo test test-quick harness simulate crash flood fuzz bench lint vulncheck generate clean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the one static binary, into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/slipway

demo: build ## watch twenty orders become machines on simulators: no root, no servers
	@$(BIN) demo

.PHONY: lab
lab: ## two orders become real machines (QEMU) that are logged in to and typed into; KEEP=1 leaves them up, DEBIAN=1 adds a whole Debian 12, GUESTS=2,4,8 prints how long so many take (Debian, root)
	@scripts/lab.sh

test: ## everything, on real servers and tools; installs what it needs (Debian, root)
	scripts/test.sh

test-quick: ## what runs here without installing anything and without root; lists what it left out
	scripts/test-quick.sh

fuzz: ## every parser of foreign bytes for FUZZTIME (1m) each; a part of that time is in `make test`
	scripts/fuzz.sh

harness: ## break every row of every process table in every way; prints how many walks converged
	@set -o pipefail; $(GO) test ./orchestrator/orchestratortest -count=1 -v -run '^Test(Install|Uninstall|Reconfigure|Suspend|Unsuspend|Import)' | grep -vE '^ *(=== |--- PASS|PASS$$)'

SEEDS ?= 1000
simulate: ## whole sites with faults, by seed (SEEDS=1000); a seed that fails is printed with what repeats it
	$(GO) run ./internal/simulation/simulate -seeds $(SEEDS)

SEED ?= 1
INSTALLS ?= 200
crash: ## the real binary on real servers, everything killed by the plan of SEED=1 while INSTALLS=200 machines come and 50 go (Debian, root)
	SEED=$(SEED) INSTALLS=$(INSTALLS) scripts/crash.sh

FLOOD ?= 100000
flood: ## FLOOD (100,000) orders at once from one tenant on a real RabbitMQ, and another tenant's order behind them (root)
	SLIPWAY_FLOOD=$(FLOOD) $(GO) test ./e2e -run TestFloodFromOneTenant -v -count 1 -timeout 30m

bench: ## durable steps per second, commits and round trips per step, restarts per burst, the console gateway beside a direct connection
	scripts/bench.sh

lint: ## format, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "make lint: run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

vulncheck: ## known vulnerabilities in what the program calls; needs the network (vuln.go.dev), so it is no part of `make test`
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

generate: ## bring generated docs and golden files up to date
	$(GO) test ./orchestrator/orchestratortest -update
	$(GO) test ./workers/dhcp/isc ./workers/firewall/iptables ./workers/console/xvp -run 'Render|Golden' -update

clean: ## remove what was built
	rm -rf bin
