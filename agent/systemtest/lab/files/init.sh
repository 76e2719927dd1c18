#!/bin/sh
# The first process of a lab host. It starts in fresh mount, pid, uts and ipc
# namespaces and in the host's network namespace; it makes the host's own view
# of the file system, says "ok" on descriptor 3, and becomes the reaper.
# Nothing here outlives the process: the mounts go with their namespace.
set -eu
name=$1 number=$2 lab=$3 prefix=$4 docker=$5 podman=$6
dir=$lab/$name
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

mount --make-rprivate /
mount -t proc proc /proc
echo "$name" >/proc/sys/kernel/hostname

# What was mounted under /run belongs to the machine. Namespace handles above
# all: a copy here would keep a namespace alive that the machine has deleted.
awk '$2 ~ "^/run(/|$)" || $3 == "nsfs" { print $2 }' /proc/self/mounts | sort -r |
	while read -r m; do umount -l "$m" 2>/dev/null || :; done
mount -t tmpfs -o mode=755,size=256m splab-run /run
mkdir -p /run/lock /run/openvswitch /run/lab/machine-sbin

# A sysfs of this network namespace (/sys/class/net), with the cgroups kept.
mkdir /run/lab/cgroup
mount --rbind /sys/fs/cgroup /run/lab/cgroup
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount --move /run/lab/cgroup /sys/fs/cgroup
rmdir /run/lab/cgroup

mount --bind "$dir/opt/cni" /opt/cni
for d in docker openvswitch socketplane cni; do
	mount --bind "$dir/etc/$d" "/etc/$d"
done
for d in docker containerd openvswitch socketplane cni containers; do
	mount --bind "$dir/lib/$d" "/var/lib/$d"
done
mount --bind "$dir/log" /var/log
for f in hosts hostname resolv.conf; do
	# A link into the machine's /run leads nowhere here: then the file is absent.
	[ ! -f "/etc/$f" ] || mount --bind "$dir/etc/$f" "/etc/$f"
done
# The machine's own /usr/local/sbin stays reachable: the lab's holds links to it.
mount --bind /usr/local/sbin /run/lab/machine-sbin
mount --bind "$lab/sbin" /usr/local/sbin

# Another Docker or Podman than the machine's runs below a root of its own, in which all
# but /usr, /etc and /var is the host's. /run is shared, so that a network namespace which
# they mount there is one for the agent too.
[ -z "$docker$podman" ] || mount --make-shared /run
# below MOUNT ROOT
below() {
	root=$dir/$1
	mkdir -p "$root"
	mount --bind "$2" "$root"
	mkdir -p "$root/.old" # where the old root goes, see lab-docker
	for d in /* /etc/docker /etc/socketplane /etc/cni /var/lib/docker /var/lib/containerd /var/lib/containers /var/lib/socketplane /var/lib/cni /var/log /var/tmp; do
		[ -d "$d" ] && [ ! -L "$d" ] || continue
		case $d in /usr | /etc | /var | /bin | /sbin | /lib*) continue ;; esac
		mkdir -p "$root$d"
		mount --rbind "$d" "$root$d"
	done
	for f in hosts hostname resolv.conf; do
		[ ! -f "/etc/$f" ] || [ ! -f "$root/etc/$f" ] || mount --bind "/etc/$f" "$root/etc/$f"
	done
	mkdir -p "$dir/etc/networks" "$root/etc/containers/networks" # where Podman notes its networks
	mount --bind "$dir/etc/networks" "$root/etc/containers/networks"
	mkdir -p "$root/var/cache/containers"
	mount -t tmpfs tmpfs "$root/var/cache/containers"
	mount -o remount,bind,ro "$root" # all hosts have it in common
}
[ -z "$docker" ] || below docker "$docker"
[ -z "$podman" ] || below podman "$podman"

# After a power cut the namespace is as it was: what a machine would have lost
# (bridges, taps, rules) goes now.
nft flush ruleset
for link in /sys/class/net/*; do
	link=${link##*/}
	case $link in lo | ul0 | ctl0) ;; *) ip link del "$link" 2>/dev/null || : ;; esac
done
ip link set lo up
# Docker turns FORWARD into DROP when it is the one that enables forwarding.
echo 1 >/proc/sys/net/ipv4/ip_forward
# No router lives on the underlay: no solicitations on it either.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra 2>/dev/null || :

# The wire. The switch reads it with AF_PACKET, before netfilter's ingress hook:
# the kernel must not answer what it sees there too. A hardware checksum that
# nobody fills in would be a lost segment.
echo 1 >/proc/sys/net/ipv6/conf/ul0/disable_ipv6 2>/dev/null || :
echo 8 >/proc/sys/net/ipv4/conf/ul0/arp_ignore
ethtool -K ul0 tx off >/dev/null
nft -f - <<NFT
table netdev lab {
	chain wire {
		type filter hook ingress device ul0 priority 0; policy drop;
	}
}
NFT
ip link set ul0 up

# The control network, where there is one, is the kernel's.
if [ -e /sys/class/net/ctl0 ]; then
	echo 1 >/proc/sys/net/ipv6/conf/ctl0/disable_ipv6 2>/dev/null || :
	ip addr replace "198.18.1.$number/24" dev ctl0
	ip link set ctl0 up
fi

cat >/run/lab/host <<HOST
name=$name
addr=198.18.0.$number
dir=$dir
prefix=$prefix
HOST

# Podman's calls share one mount namespace, which this process holds: what one of them
# mounts for a container is there for the next.
if [ -n "$podman" ]; then
	unshare --mount --propagation unchanged sh -euc '
		cd "$0"
		pivot_root . .old
		cd /
		mount --make-rprivate /.old
		umount -l /.old
		echo $$ >/run/lab/podman.pid
		exec sleep infinity' "$dir/podman" 3>&- &
	while [ ! -s /run/lab/podman.pid ]; do
		kill -0 $! # it has failed
		sleep 0.05
	done
fi
echo ok >&3
exec 3>&-
exec tini -- sleep infinity
