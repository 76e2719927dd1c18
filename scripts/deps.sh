#!/bin/sh
# Installs what the build, the lab and the tests need and this machine lacks
# (Debian, Ubuntu); with the arguments vagrant, vm and suites, what `vagrant up`, virtual
# machines and programs of other Debian suites need too. Says nothing and is quick when
# everything is there. What apt-get says goes to bin/deps.log.
set -eu
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
log=$(cd "$(dirname "$0")/.." && pwd)/bin/deps.log

say() { echo "deps: $*"; }
die() {
	echo "deps: $*" >&2
	exit 1
}

# First what no package of the distribution brings: nobody waits minutes to hear of it.
command -v go >/dev/null || die "no go on the PATH: Go 1.26 or newer is needed (https://go.dev/dl)"
version=$(go env GOVERSION 2>/dev/null) || version=unknown
case $version in
go1.2[1-9]* | go1.[3-9][0-9]* | go[2-9]*) ;; # from 1.21 on go fetches the version that go.mod wants
go1.*) die "$version is too old: Go 1.26 or newer is needed (https://go.dev/dl)" ;;
esac

missing=
# need PROGRAM PACKAGE
need() {
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need ovs-vswitchd openvswitch-switch
need dockerd docker.io
need iptables iptables
need ctr containerd
need podman podman
need nft nftables
need ip iproute2
need ethtool ethtool
need ping iputils-ping
need busybox busybox-static
need tini tini
need tcpdump tcpdump
need iperf3 iperf3
need docker-compose docker-compose
need jq jq
need keepalived keepalived
need curl curl
need xz xz-utils
need git git
need make make
need mmdebstrap mmdebstrap
need shellcheck shellcheck
need gcc gcc
need nsenter util-linux
need awk mawk
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev" # for the race detector
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
for more in "$@"; do
	case $more in
	vagrant) need vagrant vagrant ;;
	vm)
		need qemu-system-x86_64 qemu-system-x86
		need genisoimage genisoimage
		need ssh openssh-client
		need mke2fs e2fsprogs
		;;
	suites) [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring" ;;
	*) die "there is no $more; it is vagrant, vm or suites" ;;
	esac
done
# They are not on the PATH; elsewhere than Debian they are in /opt/cni/bin.
[ -x /usr/lib/cni/portmap ] || [ -x /opt/cni/bin/portmap ] || missing="$missing containernetworking-plugins"
# An image cannot be made of a busybox that wants libraries.
case " $missing " in
*" busybox-static "*) ;;
*) ! ldd "$(command -v busybox)" >/dev/null 2>&1 || missing="$missing busybox-static" ;;
esac

# logged COMMAND...: its output goes to the log, and the end of it is shown if it fails.
logged() {
	mkdir -p "${log%/*}"
	echo "# $*" >>"$log"
	"$@" >>"$log" 2>&1 || {
		tail -n 20 "$log" >&2
		return 1
	}
}

update() {
	[ -z "${updated:-}" ] || return 0
	say "updating apt's package lists (log: $log)"
	logged apt-get update -q || die "apt-get update failed (see above, or $log): is there a way to the package mirror?"
	updated=yes
}

# install PACKAGE...
install() {
	say "installing $# packages, a minute or two (log: $log): $*"
	logged env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
		-o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$@" ||
		die "could not install: $* (see above, or $log)"
}

if [ -n "$missing" ]; then
	missing=${missing# }
	command -v apt-get >/dev/null || die "missing: $missing; no apt-get here, install them by hand"
	[ "$(id -u)" -eq 0 ] || die "missing: $missing; not root: sudo $0"
	policy=/usr/sbin/policy-rc.d
	if [ ! -d /run/systemd/system ] && [ ! -e $policy ]; then
		# Without systemd a package's scripts would start its daemon here and now;
		# the lab starts its own.
		trap 'rm -f $policy' EXIT
		trap 'exit 130' INT TERM HUP
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	update
	# shellcheck disable=SC2086 # a list of package names
	install $missing
fi
# Newer releases have Docker's client in a package of its own.
if ! command -v docker >/dev/null 2>&1; then
	[ "$(id -u)" -eq 0 ] || die "missing: docker-cli; not root: sudo $0"
	update
	install docker-cli
fi
