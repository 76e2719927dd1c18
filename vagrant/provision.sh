#!/bin/sh
# Runs in each guest, as root: provision.sh ADDRESS FIRST, with its own address and
# that of the host on which the cluster begins. Run twice it is run once.
set -eu
address=$1 first=$2
patience=600 # seconds; the guests are made at the same time, and the first may be the last

die() {
	echo "provision: $*" >&2
	exit 1
}

# A machine has another interface, by which Vagrant reaches it: the cluster's is
# the one with the address.
interface() {
	ip -o -4 address show | awk -v a="$address" '{ split($4, part, "/") } part[1] == a { print $2; exit }'
}
iface=$(interface)
[ -n "$iface" ] || die "no interface has the address $address"
# A guest that is a container may have a kernel without openvswitch.
if [ -e /etc/systemd/system/userspace-uplink@.service ] && [ "$iface" != br-phy ]; then
	systemctl --quiet enable --now "userspace-uplink@$iface"
	iface=$(interface)
fi

/vagrant/bin/socketplane install --unattended --from /vagrant/bin --iface "$iface"

if [ "$address" = "$first" ]; then
	socketplane cluster bootstrap --token-file /vagrant/token
else
	deadline=$(($(date +%s) + patience))
	said=
	until why=$(socketplane cluster join --token-file /vagrant/token "$first" 2>&1); do
		[ "$(date +%s)" -lt $deadline ] || die "not let into the cluster within $patience s: $why"
		[ "$why" = "$said" ] || echo "waiting for $first: $why"
		said=$why
		sleep 1
	done
	echo "$why"
fi

# In a guest without a way to a registry: something to run.
images=/usr/local/share/images
if [ -e $images/busybox.tar ] && ! docker image inspect busybox >/dev/null 2>&1; then
	docker import $images/busybox.tar busybox >/dev/null
fi
