# Install and uninstall where no systemd runs, in namespaces of its own: what is
# written to the system's directories goes to overlays. $1: the directory to install
# from, $2: install.sh.
set -eu
from=$1 script=$2
unset SOCKETPLANE_FROM BOOTSTRAP

work=/run
mount -t tmpfs tmpfs $work
for dir in /etc /usr /opt /var/lib /var/log /lib/modules; do
	[ ! -L $dir ] && [ -d $dir ] || continue
	name=$(echo $dir | tr / _)
	mkdir -p $work/overlay/$name/lower $work/overlay/$name/upper $work/overlay/$name/work
	mount --bind $dir $work/overlay/$name/lower
	mount -t overlay overlay -o "lowerdir=$dir,upperdir=$work/overlay/$name/upper,workdir=$work/overlay/$name/work" $dir
done

rm -rf /etc/socketplane /var/lib/socketplane # the lab's mount points

# A host's network and switch.
ip link set lo up
ip link add eth0 type veth peer name wire0
ip link set wire0 up
ip addr add 198.18.200.1/24 dev eth0
ip link set eth0 up
ip route add default via 198.18.200.254
echo 0 >/proc/sys/net/ipv4/ip_forward
mkdir -p /run/openvswitch /etc/openvswitch
rm -f /etc/openvswitch/conf.db
ovsdb-tool create /etc/openvswitch/conf.db
ovsdb-server --detach --no-chdir --pidfile --log-file=/run/ovsdb.log --remote=punix:/run/openvswitch/db.sock /etc/openvswitch/conf.db
ovs-vsctl --no-wait init
ovs-vswitchd --detach --no-chdir --pidfile --log-file=/run/vswitchd.log

# listing: what differs from the machine's own files, and the network's state.
listing() {
	for o in $work/overlay/*; do
		(cd "$o/upper" && find . ! -type d ! -name '*-' ! -name .pwd.lock ! -name 'conf.db*' | sort | while read -r f; do
			cmp -s "$f" "$o/lower/$f" || echo "$o $f"
		done)
	done
	find /run -path /run/overlay -prune -o -path /run/openvswitch -prune -o -name xtables.lock -prune -o -print | sort
	iptables-save 2>/dev/null | grep -e ^-A || true
	nft list tables netdev
	ip -o link | cut -d : -f 2
	ip route
	ovs-vsctl --no-headings --columns=name list bridge
	cat /proc/sys/net/ipv4/ip_forward
}

touch /run/before /run/after
listing >/run/before
say() { echo "== $*"; }
install() { SOCKETPLANE_FROM=$from sh "$script"; }

say first
install
socketplane agent status
socketplane network create web 10.6.0.0/16
ip netns add inside
socketplane connect -n web --netns /run/netns/inside --id one
say second
install
say refused
! socketplane uninstall || exit 1
say cluster
BOOTSTRAP=true install
socketplane cluster members
say away
socketplane disconnect one
ip netns delete inside
umount /run/netns
rmdir /run/netns
socketplane agent stop
! socketplane uninstall --purge || exit 1
socketplane agent start
timeout 30 sh -c 'until socketplane agent status | grep -q "Ready: *yes"; do sleep 0.1; done'
say gone
socketplane uninstall --purge
listing >/run/after
say difference
diff /run/before /run/after
