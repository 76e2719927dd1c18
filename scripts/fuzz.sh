#!/bin/sh
# Runs every native fuzz target of the module for a while each, two at a time:
# scripts/fuzz.sh 3s
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

# one TIME DIR TARGET; its lines come out together.
if [ "${1:-}" = one ]; then
	time=$2 dir=$3 target=$4
	out=$(mktemp)
	trap 'rm -f "$out"' EXIT
	trap 'exit 130' INT TERM HUP
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 1 "./$dir" >"$out" 2>&1; then
		cat "$out"
		echo "fuzz: $target failed; what it failed with is under $dir/testdata/fuzz and fails in every later run: commit it with the fix" >&2
		exit 255 # xargs ends at once
	fi
	echo "fuzz: $dir $target for $time: $(grep -E '^fuzz: elapsed' "$out" | tail -n 1)"
	exit 0
fi

time=${1:-3s}
targets=$(grep -rlE --include='*_test.go' '^func Fuzz' agent cli ipam ovs scripts | sort | while read -r file; do
	sed -nE "s|^func (Fuzz[A-Za-z0-9_]*)\(.*|$(dirname "$file") \1|p" "$file"
done)
[ -n "$targets" ] || {
	echo "fuzz: no target was found" >&2
	exit 1
}
echo "$targets" | xargs -P 2 -n 2 scripts/fuzz.sh one "$time"
echo "fuzz: $(echo "$targets" | wc -l) targets held"
