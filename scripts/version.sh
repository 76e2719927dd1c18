#!/bin/sh
# Prints the version of this tree. A release has a tag: v1.2.0, or v1.2.0-rc.1 before
# it. What comes after a tag is named by it and the commits since: v1.2.0-14-gabc1234.
# Before the first tag, the date of the commit counts (UTC): v0.0.0-20261201101338-abc1234.
# So any two versions can be compared: agent/cluster/version.go.
set -eu
cd "$(dirname "$0")/.."
if described=$(git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null); then
	echo "$described"
elif at=$(TZ=UTC git log -1 --format=%cd-%h --date=format-local:%Y%m%d%H%M%S 2>/dev/null); then
	dirty=
	[ -z "$(git status --porcelain --untracked-files=no)" ] || dirty=-dirty
	echo "v0.0.0-$at$dirty"
else
	echo unknown
fi
