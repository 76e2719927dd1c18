#!/bin/sh
# Makes a root file system that holds another version of a program than this machine
# has, from the Debian suite that has it, unless it was made before; its path is the
# last line printed. The lab runs its hosts' Docker and Podman from there (scripts/lab up
# --docker VERSION, --podman VERSION), and make test-ovs its switches.
#
#   docker 26.1, podman 5.4, ovs 3.5   Debian 13 (trixie)
#   docker 28.5, podman 5.8, ovs 4.0   Debian sid
#
# sid moves on. With --or-newer behind the version, what sid has by then is taken.
# With --made behind the version nothing is made; the status says whether it was.
# SOCKETPLANE_DEBIAN_MIRROR names a mirror other than deb.debian.org.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-} version=${2:-} flag=${3:-}
case "$kind $version" in
'docker 26.1' | 'podman 5.4' | 'ovs 3.5') suite=trixie ;;
'docker 28.5' | 'podman 5.8' | 'ovs 4.0') suite=sid ;;
*)
	case $kind in
	docker) echo "debian-root: there is no Docker \"$version\"; it is 26.1 or 28.5" >&2 ;;
	podman) echo "debian-root: there is no Podman \"$version\"; it is 5.4 or 5.8" >&2 ;;
	ovs) echo "debian-root: there is no Open vSwitch \"$version\"; it is 3.5 or 4.0" >&2 ;;
	*) echo "debian-root: there is no \"$kind\"; it is docker, podman or ovs" >&2 ;;
	esac
	exit 2
	;;
esac
case $kind in
docker) what="Docker $version" package=docker.io packages="docker.io=$version*,docker-cli=$version*,docker-compose,iptables" ;;
podman) what="Podman $version" package=podman packages="podman=$version*,netavark,runc,nftables" ;;
ovs) what="Open vSwitch $version" package=openvswitch-switch packages="openvswitch-switch=$version*,openvswitch-common=$version*" ;;
esac
any=$(echo "$packages" | sed 's/=[^,]*//g')
mirror=${SOCKETPLANE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
pause=${SOCKETPLANE_DEBIAN_PAUSE:-10} # seconds before another attempt; the second pause is twice as long
name=root-$suite-$kind-$version
root=$PWD/bin/$name log=$PWD/bin/$name.log

if [ "$flag" = --made ]; then
	[ -d "$root" ]
	exit
fi
if [ -d "$root" ]; then # nothing to install then, so nobody has to be root
	echo "$root"
	exit
fi
scripts/deps.sh suites >&2
mkdir -p bin
# Go leaves other modules alone: ./... would look for packages in the whole of a root.
[ -e bin/go.mod ] || echo 'module bin' >bin/go.mod
exec 9>"bin/.$name.lock"
flock 9 # several may want it at once: the first makes it

# attempt makes the root; what is said goes to the log.
attempt() {
	rm -rf "$root.new"
	set --
	for dir in doc man locale; do
		set -- "$@" --dpkgopt="path-exclude=/usr/share/$dir/*"
	done
	# sid's index is signed for a week, and some mirrors are older than that.
	mmdebstrap --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$@" \
		--include="$packages" "$suite" "$root.new" "$mirror" >"$log" 2>&1
}

if [ ! -d "$root" ]; then
	echo "debian-root: making a root file system with $what of Debian $suite, once (a minute; log: $log)" >&2
	trap 'rm -rf "$root.new"' EXIT
	trap 'exit 130' INT TERM HUP
	for try in 1 2 3; do
		! attempt || break
		tail -n 15 "$log" >&2
		# Asking again does not help against that.
		if grep -q "Version '[^']*' for '[^']*' was not found" "$log"; then
			if [ "$flag" = --or-newer ] && [ "$packages" != "$any" ]; then
				echo "debian-root: Debian $suite at $mirror has another version of $package than $version by now; that one is taken" >&2
				packages=$any
				continue
			fi
			echo "debian-root: Debian $suite at $mirror has another version of $package than $version by now; see $log" >&2
			exit 1
		fi
		if [ $try = 3 ]; then
			echo "debian-root: $what could not be had from Debian $suite at $mirror, three times (see above, or $log): is there a way to the mirror?" >&2
			exit 1
		fi
		echo "debian-root: that failed; another attempt in $((pause * try)) s" >&2
		sleep $((pause * try))
	done
	mv "$root.new" "$root"
fi
echo "$root"
