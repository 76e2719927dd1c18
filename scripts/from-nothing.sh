#!/bin/sh
# Says which make targets have nothing to build on in this clone: no bin/ that holds
# what they need. make test-long begins with it, so that its log tells whether it
# showed that a target works in a fresh clone.
set -eu
cd "$(dirname "$0")/.."
nothing='' made=''

# target NAME COMMAND...: the command succeeds when what the target needs is there.
target() {
	name=$1
	shift
	if "$@" >/dev/null 2>&1; then made="$made $name"; else nothing="$nothing $name"; fi
}

# any FILE...: one of them, from a pattern, is there.
any() { [ -e "$1" ]; }

target build any bin/socketplane
# shellcheck disable=SC2016 # for the shell that is begun
target consul sh -c '[ -x bin/consul ] || command -v consul'
target tools any bin/labctl
target package any bin/tools/nfpm-*
target test-package scripts/machine-image.sh plain --made
for guest in test-vagrant test-cloud-init test-walk; do
	target $guest scripts/machine-image.sh guest --made
done
target test-vm scripts/machine-image.sh vm --made
for version in 26.1 28.5; do target test-docker-$version scripts/debian-root.sh docker $version --made; done
for version in 5.4 5.8; do target test-podman-$version scripts/debian-root.sh podman $version --made; done
for version in 3.5 4.0; do target test-ovs-$version scripts/debian-root.sh ovs $version --made; done
echo "from nothing:${nothing:- no target}; what was there before:${made:- nothing}"
