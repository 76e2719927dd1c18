#!/bin/sh
# Makes a root file system that holds another version of Docker, from the Debian suite
# that has it, unless it was made before; its path is the last line printed. The lab
# runs its hosts' dockerd from it (scripts/lab up --docker VERSION).
#
#   26.1   Debian 13 (trixie)
#   28.5   Debian sid
#
# With --made behind the version nothing is made; the status says whether it was.
# SOCKETPLANE_DEBIAN_MIRROR names a mirror other than deb.debian.org.
set -eu
cd "$(dirname "$0")/.."
version=${1:-} made=${2:-}
case $version in
26.1) suite=trixie ;;
28.5) suite=sid ;;
*)
	echo "docker-root: there is no Docker \"$version\"; it is 26.1 or 28.5" >&2
	exit 2
	;;
esac
mirror=${SOCKETPLANE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
name=docker-root-$suite-$version
root=$PWD/bin/$name log=$PWD/bin/$name.log

if [ "$made" = --made ]; then
	[ -d "$root" ]
	exit
fi
if [ -d "$root" ]; then # nothing to install then, so nobody has to be root
	echo "$root"
	exit
fi
scripts/deps.sh docker >&2
mkdir -p bin
exec 9>"bin/.$name.lock"
flock 9 # several may want it at once: the first makes it
if [ ! -d "$root" ]; then
	echo "docker-root: making a root file system with Docker $version of Debian $suite, once (a minute; log: $log)" >&2
	trap 'rm -rf "$root.new"' EXIT
	trap 'exit 130' INT TERM HUP
	rm -rf "$root.new"
	set --
	for dir in doc man locale; do
		set -- "$@" --dpkgopt="path-exclude=/usr/share/$dir/*"
	done
	# sid's index is signed for a week, and some mirrors are older than that.
	mmdebstrap --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$@" \
		--include="docker.io=$version*,docker-cli=$version*,docker-compose,iptables" \
		"$suite" "$root.new" "$mirror" >"$log" 2>&1 || {
		tail -n 15 "$log" >&2
		if grep -q "Version '$version\*' for 'docker.*' was not found" "$log"; then
			echo "docker-root: Debian $suite at $mirror has another version than Docker $version by now; see $log" >&2
		else
			echo "docker-root: Docker $version could not be had from Debian $suite at $mirror (see above, or $log): is there a way to the mirror?" >&2
		fi
		exit 1
	}
	mv "$root.new" "$root"
fi
echo "$root"
