#!/bin/sh
# Runs every native fuzz target of the module, two at a time, so many inputs
# each: scripts/fuzz.sh 10000x
#
# Inputs and not seconds: at the end of a -fuzztime in seconds Go up to 1.26
# now and then fails a target that holds ("context deadline exceeded",
# golang/go#75804). What hangs is ended by a limit of its own.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

# one COUNT DIR TARGET; its lines come out together.
if [ "${1:-}" = one ]; then
	count=$2 dir=$3 target=$4
	out=$(mktemp)
	run=
	trap 'rm -f "$out"' EXIT
	trap '[ -z "$run" ] || kill "$run" 2>/dev/null || true; exit 130' INT TERM HUP
	# In the background, since timeout has a process group of its own, which a
	# Ctrl-C does not reach.
	timeout 30m go test -run '^$' -fuzz "^$target\$" -fuzztime "$count" -fuzzminimizetime 1000x -parallel 1 "./$dir" >"$out" 2>&1 &
	run=$!
	status=0
	wait "$run" || status=$?
	if [ "$status" -eq 124 ]; then
		cat "$out"
		echo "fuzz: $target was not done with $count after 30 minutes: one of its inputs hangs" >&2
		exit 255
	fi
	if [ "$status" -ne 0 ]; then
		cat "$out"
		echo "fuzz: $target failed; what it failed with is under $dir/testdata/fuzz and fails in every later run: commit it with the fix" >&2
		exit 255 # xargs ends at once
	fi
	echo "fuzz: $dir $target $count: $(grep -E '^fuzz: elapsed' "$out" | tail -n 1)"
	exit 0
fi

count=${1:-10000x}
targets=$(grep -rlE --include='*_test.go' '^func Fuzz' agent cli ipam ovs scripts | sort | while read -r file; do
	sed -nE "s|^func (Fuzz[A-Za-z0-9_]*)\(.*|$(dirname "$file") \1|p" "$file"
done)
[ -n "$targets" ] || {
	echo "fuzz: no target was found" >&2
	exit 1
}
echo "$targets" | xargs -P 2 -n 2 scripts/fuzz.sh one "$count"
echo "fuzz: $(echo "$targets" | wc -l) targets held"
