# Every target installs what it lacks and says so.
SHELL := /bin/sh
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
GOLANGCI_VERSION := v2.14.0
GOLANGCI := bin/tools/golangci-lint-$(GOLANGCI_VERSION)
LONG_TIMEOUT := 120m

# Many tests wait for a session to end: eight of a package side by side. Whole hosts run
# in the system tests, which wait as much as they work: the largest package of them runs
# beside all others, in a lab of its own.
UNIT = $$(go list ./... | grep -v /agent/systemtest)
SYSTEM = ./agent/systemtest/...
OTHER_SYSTEM = $$(go list ./agent/systemtest/... | grep -v '/agent/systemtest$$')

# What other versions of Docker, Podman and Open vSwitch can break, and the versions that
# scripts/debian-root.sh knows.
DOCKER = 28.5
PODMAN = 5.4
OVS = 4.0
DOCKER_TESTS = TestDoors|TestDockers?[A-Z]|TestCompose|TestPublished|TestTwoNetworks|TestStoppedKeepsItsAddress|TestEndsWhileTheAgentIsDown|TestAgentRestartLosesNothing
PODMAN_TESTS = TestDoors|TestNetavark|TestPodman|TestTwoNetworks|TestCNIAddressAskedFor|TestEndsWhileTheAgentIsDown
# The short ones, which are part of make test.
NEWER_TESTS = TestDoors|TestNetavark|TestDockersRefusals|TestPublishedFollowTheGateway|TestPublishedOutliveDocker|TestComposeOwnNetwork

ON_DOCKER = -p 1 -tags netavark -count=1 -timeout 40m -run '$(DOCKER_TESTS)' ./agent/systemtest
ON_PODMAN = -p 1 -tags netavark -count=1 -timeout 20m -run '$(PODMAN_TESTS)' ./agent/systemtest
ON_OVS = -count=1 -parallel 8 -timeout 10m ./ovs

.DEFAULT_GOAL := help
.PHONY: help deps build package consul tools demo demo-down test test-long from-nothing test-package test-vagrant test-cloud-init test-walk test-vm test-docker test-podman test-ovs test-matrix newer unit lint shellcheck bench clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the packages that are missing (Debian, Ubuntu)
	@scripts/deps.sh

build: ## build bin/socketplane, one static binary
	@scripts/build.sh && echo "bin/socketplane is built"

package: deps ## build bin/socketplane_VERSION_ARCH.deb
	@scripts/package.sh

consul: deps ## download or build bin/consul, unless one is on the PATH
	@scripts/consul.sh

tools: deps
	@CGO_ENABLED=0 go build -o bin/labctl ./agent/systemtest/labctl
	@CGO_ENABLED=0 go build -o bin/testrun ./scripts/testrun
	@CGO_ENABLED=0 go build -o bin/cnitool github.com/containernetworking/cni/cnitool

demo: deps build consul tools ## three hosts, one network, containers that reach each other
	@CGO_ENABLED=0 go build -o bin/demo ./agent/systemtest/demo
	@bin/demo

demo-down: ## take the demo away, all of it
	@scripts/lab down

test: deps build consul tools newer shellcheck ## unit, contract and system tests, as CI runs them
	@go vet ./...
	@scripts/fuzz.sh 10000x
	@bin/testrun -race -count=1 -timeout 60m ./agent/systemtest \
		++ -race -count=1 -parallel 8 -timeout 15m $(UNIT) \
		-- SOCKETPLANE_LAB=beside -race -p 1 -count=1 -timeout 30m $(OTHER_SYSTEM) \
		-- SOCKETPLANE_LAB=beside SOCKETPLANE_LAB_DOCKER=28.5 SOCKETPLANE_LAB_PODMAN=5.4 -tags netavark -count=1 -timeout 30m -run '$(NEWER_TESTS)' ./agent/systemtest

newer: deps
	@scripts/debian-root.sh docker 28.5 --or-newer >/dev/null
	@scripts/debian-root.sh podman 5.4 >/dev/null

test-long: from-nothing deps build consul tools ## all tests, with hundreds of repeats; vagrant up, cloud-init, VMs, other versions of Docker
	@scripts/deps.sh vagrant vm
	@scripts/fuzz.sh 300000x
	@SOCKETPLANE_TEST_LONG=true bin/testrun -race -count=1 -parallel 8 -timeout $(LONG_TIMEOUT) $(UNIT) -- -race -p 1 -tags long -count=1 -timeout $(LONG_TIMEOUT) $(SYSTEM) ./vagrant
	@$(MAKE) --no-print-directory test-matrix

from-nothing:
	@scripts/from-nothing.sh

test-vagrant: deps build consul tools ## vagrant up with 3, 1 and 5 nodes, as containers
	@scripts/deps.sh vagrant
	@bin/testrun -v -tags long -count=1 -timeout 40m ./vagrant

test-cloud-init: deps build consul tools ## the examples of cloud-init, executed by cloud-init
	@bin/testrun -v -tags long -count=1 -timeout 30m ./agent/systemtest/cloudinit

test-package: deps build consul tools ## the package and install.sh on machines with systemd, over boots
	@bin/testrun -tags long -count=1 -timeout 30m ./agent/systemtest/machine

test-vm: deps build consul tools ## three VMs (emulated) with a kernel that has openvswitch, made by cloud-init
	@scripts/deps.sh vm
	@bin/testrun -v -tags long -count=1 -timeout 30m ./agent/systemtest/vm

test-docker: deps build consul tools ## the tests of Docker's networks with another Docker: DOCKER=26.1 or 28.5
	@scripts/debian-root.sh docker $(DOCKER) >/dev/null
	@bin/testrun SOCKETPLANE_LAB_DOCKER=$(DOCKER) $(ON_DOCKER)

test-podman: deps build consul tools ## the tests of Podman with another Podman: PODMAN=5.4 or 5.8
	@scripts/debian-root.sh podman $(PODMAN) >/dev/null
	@bin/testrun SOCKETPLANE_LAB_PODMAN=$(PODMAN) $(ON_PODMAN)

test-ovs: deps tools ## the tests of the switch with another Open vSwitch: OVS=3.5 or 4.0
	@scripts/ovs-path.sh $(OVS) >/dev/null
	@bin/testrun SOCKETPLANE_TEST_OVS=$(OVS) $(ON_OVS)

test-matrix: deps build consul tools newer ## all of these versions; writes docs/compatibility.md
	@scripts/debian-root.sh docker 26.1 >/dev/null
	@scripts/debian-root.sh podman 5.8 >/dev/null
	@scripts/ovs-path.sh 3.5 >/dev/null && scripts/ovs-path.sh 4.0 >/dev/null
	@bin/testrun -results bin/matrix.txt \
		SOCKETPLANE_LAB_DOCKER=26.1 $(ON_DOCKER) -- SOCKETPLANE_LAB_DOCKER=28.5 $(ON_DOCKER) \
		-- SOCKETPLANE_LAB_PODMAN=5.4 $(ON_PODMAN) -- SOCKETPLANE_LAB_PODMAN=5.8 $(ON_PODMAN) \
		-- SOCKETPLANE_TEST_OVS=3.5 $(ON_OVS) -- SOCKETPLANE_TEST_OVS=4.0 $(ON_OVS); \
		status=$$?; go run ./scripts/compatibility docs/compatibility.md bin/matrix.txt && exit $$status

test-walk: deps build consul tools ## docs/walk-2015.md, typed; UPDATE=1 writes the answers into it
	@bin/testrun -v -tags long -count=1 -timeout 20m ./agent/systemtest/walk $(if $(UPDATE),-update)

unit: deps consul tools ## the tests of single packages
	@bin/testrun -race -count=1 -parallel 8 -timeout 10m $(UNIT)

shellcheck: deps
	@shellcheck -S warning scripts/*.sh scripts/lab scripts/package/postinst scripts/package/prerm scripts/package/postrm scripts/guest/*.sh scripts/vm/*.sh scripts/guest/userspace-uplink vagrant/*.sh

lint: deps shellcheck $(GOLANGCI) ## formatting, static checks, who may import whom
	@$(GOLANGCI) run ./...
	@$(GOLANGCI) fmt --diff ./...

$(GOLANGCI):
	@echo "lint: building golangci-lint $(GOLANGCI_VERSION), once (some minutes)"
	@mkdir -p bin/tools
	@GOBIN=$(CURDIR)/bin/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv bin/tools/golangci-lint $@

bench: deps build consul tools ## what an attach, a ping and a byte cost, beside their floor
	@CGO_ENABLED=0 go build -o bin/bench ./agent/systemtest/bench
	@bin/bench

clean: ## remove what was built
	@rm -rf bin
