#!/bin/sh
# Runs in each guest, as root: provision.sh ADDRESS FIRST, with its own address and
# that of the host on which the cluster begins. Run twice it is run once.
set -eu
address=$1 first=$2

# A machine has another interface, by which Vagrant reaches it: the cluster's is
# the one with the address.
interface() {
	ip -o -4 address show | awk -v a="$address" '{ split($4, part, "/") } part[1] == a { print $2; exit }'
}
iface=$(interface)
[ -n "$iface" ] || {
	echo "provision: no interface has the address $address" >&2
	exit 1
}
# A guest that is a container may have a kernel without openvswitch.
if [ -e /etc/systemd/system/userspace-uplink@.service ] && [ "$iface" != br-phy ]; then
	systemctl --quiet enable --now "userspace-uplink@$iface"
	iface=$(interface)
fi

# The first begins the cluster; the others wait for it: all may be made at once.
if [ "$address" = "$first" ]; then
	set -- --bootstrap
else
	set -- --join "$first"
fi
/vagrant/bin/socketplane install --unattended --from /vagrant/bin --iface "$iface" --token-file /vagrant/token "$@"

# In a guest without a way to a registry: something to run.
images=/usr/local/share/images
if [ -e $images/busybox.tar ] && ! docker image inspect busybox >/dev/null 2>&1; then
	docker import $images/busybox.tar busybox >/dev/null
fi
