#!/bin/sh
# Runs every native fuzz target of the module for a while each: scripts/fuzz.sh 3s
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
time=${1:-3s}
found=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
trap 'exit 130' INT TERM HUP
for file in $(grep -rlE --include='*_test.go' '^func Fuzz' agent cli ipam ovs scripts | sort); do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file"); do
		found=$((found + 1))
		printf 'fuzz: %s %s for %s\n' "$(dirname "$file")" "$target" "$time"
		if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 2 "./$(dirname "$file")" >"$out" 2>&1; then
			cat "$out"
			echo "fuzz: $target failed; what it failed with is under $(dirname "$file")/testdata/fuzz and fails in every later run: commit it with the fix" >&2
			exit 1
		fi
		grep -E '^fuzz: elapsed' "$out" | tail -n 1
	done
done
[ $found -gt 0 ] || {
	echo "fuzz: no target was found" >&2
	exit 1
}
echo "fuzz: $found targets held"
