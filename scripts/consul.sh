#!/bin/sh
# Makes bin/consul, or the file that is named, unless there is a consul on the PATH
# or it was made before. The release is downloaded and verified (scripts/consulrelease)
# where that is possible, which takes seconds. Elsewhere Consul is built from
# the module pinned in scripts/consul, which takes minutes.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
file=${1:-bin/consul}
! command -v consul >/dev/null || exit 0
! [ -x "$file" ] || exit 0
command -v go >/dev/null || {
	echo "consul: none on the PATH, and no go to fetch or build it with: Go 1.26 or newer is needed (https://go.dev/dl)" >&2
	exit 1
}
export CGO_ENABLED=0
mkdir -p bin "$(dirname "$file")"
case $file in
/*) ;;
*) file=$PWD/$file ;;
esac
new=$file.$$
log=$file.log
pid=
# What is ended may still be about to make its file, so it is waited for.
trap '[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true; rm -f "$new" "$log.stale"' EXIT
trap 'exit 130' INT TERM HUP
start=$(date +%s)

# attend PROGRESS: waits for $pid and prints what the command PROGRESS says, each 20 s.
attend() {
	said=$(date +%s)
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		now=$(date +%s)
		if [ $((now - said)) -ge 20 ]; then
			said=$now
			echo "consul: $($1), $((now - start)) s"
		fi
	done
	status=0
	wait "$pid" || status=$?
	pid=
	return $status
}

fetched() { echo "$(grep -c '^go: downloading' "$log" || true) modules fetched"; }

# go build -v names each package when it begins to compile it; most of the time is theirs.
compiled() {
	n=$(grep -cv '^go: ' "$log" || true)
	if [ "$n" -ge "$total" ]; then
		echo "$total of $total packages compiled, linking"
	else
		echo "$n of $total packages compiled ($((n * 100 / total)) %)"
	fi
}

fail() {
	tail -n 20 "$log" >&2
	echo "consul: $1 failed (see above; all of it is in $log); with an installed consul on the PATH none is needed" >&2
	exit 1
}

go build -o bin/consulrelease ./scripts/consulrelease
if bin/consulrelease "$new"; then
	mv "$new" "$file"
	echo "consul: $file after $(($(date +%s) - start)) s"
	exit 0
fi

version=$(sed -n 's|^require github.com/hashicorp/consul ||p' scripts/consul/go.mod)
echo "consul: building $version instead, once: 1.5 min to fetch, 4 min to build on 2 cores"
cd scripts/consul
# Listing what is to be compiled fetches the sources.
go list -deps -trimpath -f '{{if .StaleReason}}{{.ImportPath}}{{end}}' github.com/hashicorp/consul >"$log.stale" 2>"$log" &
pid=$!
attend fetched || fail "fetching its sources"
total=$(grep -c . "$log.stale" || true)
: >"$log"
go build -v -trimpath -ldflags '-s -w' -o "$new" github.com/hashicorp/consul 2>"$log" &
pid=$!
attend compiled || fail "the build"
mv "$new" "$file"
rm -f "$log"
echo "consul: $file after $(($(date +%s) - start)) s"
