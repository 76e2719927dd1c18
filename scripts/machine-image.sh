#!/bin/sh
# Makes the root file system of a whole machine that runs as a container, of the
# release that this machine runs, unless it was made before; its path is the last
# line printed.
#
#   plain   as a server's installer leaves it, with Docker and Open vSwitch
#   guest   what `vagrant up --provider=docker` and the tests of cloud-init boot:
#           plain, and sshd, the user vagrant with Vagrant's well-known key, cloud-init
#   vm      what a virtual machine boots (scripts/vm/disk.sh): plain, and a kernel with
#           openvswitch, sshd, cloud-init, as a cloud's image has them
#
# With --made behind the kind nothing is made; the status says whether it was.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-plain} made=${2:-}
packages=systemd,systemd-sysv,dbus,openvswitch-switch,docker.io,iptables,iproute2,nftables,procps,ca-certificates,curl
case $kind in
plain)
	made_by=/dev/null
	set --
	;;
guest)
	made_by=$(echo scripts/guest/*)
	packages=$packages,openssh-server,sudo,busybox-static,iputils-ping,tcpdump,cloud-init
	set -- --customize-hook='scripts/guest/image.sh "$1"'
	;;
vm)
	made_by='scripts/vm/image.sh scripts/guest/busybox.sh'
	packages=$packages,linux-image-cloud-$(dpkg --print-architecture),initramfs-tools,zstd,udev,e2fsprogs,libnss-myhostname,apparmor
	packages=$packages,openssh-server,sudo,busybox-static,iputils-ping,cloud-init
	set -- --customize-hook='scripts/vm/image.sh "$1"'
	;;
*)
	echo "machine-image: there is no kind $kind; it is plain, guest or vm" >&2
	exit 2
	;;
esac
# shellcheck disable=SC1091 # every Debian and Ubuntu has it
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$release" ] || {
	echo "machine-image: /etc/os-release names no release: machines are made on Debian and Ubuntu" >&2
	exit 1
}
for dir in doc man locale; do
	set -- "$@" --dpkgopt="path-exclude=/usr/share/$dir/*"
done
# shellcheck disable=SC2086 # a list of files
sum=$( (echo "$release $packages" && cat $made_by) | sha256sum | cut -c 1-12)
path=bin/machine-$kind-$sum.tar
if [ "$made" = --made ]; then
	[ -e "$path" ]
	exit
fi
mkdir -p bin
exec 9>"bin/.machine-$kind.lock"
flock 9 # several may want it at once: the first makes it
if [ ! -e "$path" ]; then
	command -v mmdebstrap >/dev/null || {
		echo "machine-image: mmdebstrap is missing: apt-get install mmdebstrap" >&2
		exit 1
	}
	echo "machine-image: making a root file system of $release, $kind, once (a minute)" >&2
	trap 'rm -f "$path.new.tar"' EXIT
	trap 'exit 130' INT TERM HUP
	mmdebstrap --quiet --variant=minbase --include="$packages" "$@" "$release" "$path.new.tar" >&2
	mv "$path.new.tar" "$path"
fi
echo "$path"
