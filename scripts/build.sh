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
version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
mkdir -p bin
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/socketplane/socketplane/cli.version=$version" \
	-o bin/socketplane ./cli/socketplane
