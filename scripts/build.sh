#!/bin/sh
# Builds bin/socketplane: one static binary. Quick when nothing changed.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || {
	[ -x bin/socketplane ] && exit 0 # built elsewhere, e.g. before a sudo that hides go
	echo "build: no go on the PATH: Go 1.26 or newer is needed (https://go.dev/dl)" >&2
	exit 1
}
version=$(scripts/version.sh)
mkdir -p bin
# The small program first: the other one carries it (agent/docker/install.go).
carried=agent/docker/embedded/socketplane-runc.gz
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/socketplane-runc ./cli/socketplane-runc
gzip -9n <bin/socketplane-runc >bin/socketplane-runc.gz
cmp -s bin/socketplane-runc.gz "$carried" || { cp bin/socketplane-runc.gz "$carried.$$" && mv "$carried.$$" "$carried"; }
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/socketplane/socketplane/cli.version=$version" \
	-o bin/socketplane ./cli/socketplane
