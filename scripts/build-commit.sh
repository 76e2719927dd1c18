#!/bin/sh
# Builds socketplane of an earlier commit, once, and prints where it is:
# scripts/build-commit.sh COMMIT. The commit's own scripts/build.sh builds it.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
commit=${1:?usage: scripts/build-commit.sh COMMIT}
# The tree may belong to another user than root, who runs the tests.
history() { git -c safe.directory='*' "$@"; }
# A shallow clone, or a tree without history, has the source of some commits as a file.
kept=agent/systemtest/upgrade/testdata/$(echo "$commit" | cut -c 1-7).tar.xz
if full=$(history rev-parse --quiet --verify "$commit^{commit}" 2>/dev/null); then
	short=$(echo "$full" | cut -c 1-7)
	code() { history archive --format=tar "$full"; }
elif [ -f "$kept" ]; then
	short=$(echo "$commit" | cut -c 1-7)
	code() { xz -dc "$kept"; }
else
	echo "build-commit: this clone has no commit $commit; is it shallow? Fetch the history: git fetch --unshallow" >&2
	exit 1
fi
program=$PWD/bin/commits/$short/socketplane
if ! [ -x "$program" ]; then
	tree=$PWD/bin/commits/$short.$$
	trap 'rm -rf "$tree"' EXIT
	trap 'exit 130' INT TERM HUP
	mkdir -p "$tree" "$(dirname "$program")"
	code | tar -x -C "$tree"
	# It lies inside this tree, whose version git would give it.
	sed -i "s/^version=.*/version=$short/" "$tree/scripts/build.sh"
	"$tree/scripts/build.sh" >&2
	mv "$tree/bin/socketplane" "$program.$$"
	mv "$program.$$" "$program"
fi
echo "$program"
