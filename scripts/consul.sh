#!/bin/sh
# Builds bin/consul from the module pinned in scripts/consul, unless there is a
# consul on the PATH or it was built before.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
! command -v consul >/dev/null || exit 0
! [ -x bin/consul ] || exit 0
command -v go >/dev/null || {
	echo "consul: none on the PATH, and no go to build it with: Go 1.26 or newer is needed (https://go.dev/dl)" >&2
	exit 1
}
root=$PWD
mkdir -p bin
rm -f bin/consul.new
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -f "$root/bin/consul.new"' EXIT
trap 'exit 130' INT TERM HUP

version=$(sed -n 's|^require github.com/hashicorp/consul ||p' scripts/consul/go.mod)
echo "consul: none on the PATH; building $version, once: 1.5 min to fetch, 4 min to build on 2 cores"
start=$(date +%s)
(
	cd scripts/consul
	CGO_ENABLED=0 exec go build -trimpath -ldflags '-s -w' -o ../../bin/consul.new github.com/hashicorp/consul
) &
pid=$!
said=0
while kill -0 "$pid" 2>/dev/null; do
	sleep 1
	seconds=$(($(date +%s) - start))
	if [ $((seconds - said)) -ge 20 ]; then
		said=$seconds
		echo "consul: $seconds s ..."
	fi
done
if ! wait "$pid"; then
	echo "consul: the build failed; with an installed consul on the PATH none is needed" >&2
	exit 1
fi
pid=
mv bin/consul.new bin/consul
echo "consul: bin/consul after $(($(date +%s) - start)) s"
