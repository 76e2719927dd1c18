# What a program may leave on a machine, a line each, in a stable order. Left out is
# what changes by itself: logs, caches, process ids, counters.
export LC_ALL=C

echo "# files"
find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /run -o -path '/var/lib/docker*' -o -path /var/lib/containerd \
	-o -path /var/log -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path '/var/tmp/systemd-private-*' \
	-o -path /root \) -prune -o -printf '%p %y %m %u %g %l\n' | sort
find /var/log -name '*socketplane*' | sort
echo "# run"
find /run -xdev \( -path '/run/systemd/*' -o -path '/run/log/*' -o -path '/run/udev/*' -o -path '/run/docker/*' \
	-o -path '/run/containerd/*' -o -path '/run/openvswitch/*' -o -path /run/netns \) -prune -o -printf '%p %y %m %u %g\n' | sort
find /run/docker/plugins 2>/dev/null
echo "# what is in the files" # beside /etc/group and the like lie copies of their former state
find /etc /var/lib/dpkg/info -type f ! -name ld.so.cache ! -name '*-' -print0 | sort -z | xargs -0 sha256sum
echo "# packages"
dpkg-query -W
echo "# units"
systemctl list-unit-files --no-pager --no-legend | sort
systemctl list-units --all --no-pager --no-legend | awk '{ sub("●", ""); print $1, $2, $3 }' | grep -v -E '\.(device|mount|scope)|run-docker|docker-[0-9a-f]{64}' | sort
echo "# sysctls"
sysctl -a 2>/dev/null | grep -E '^net\.(core\.rmem_default|ipv4\.ip_forward|ipv[46]\.conf|bridge)' | grep -v stable_secret | sort
echo "# rules" # of a table that somebody has looked at the empty chains are left; they do nothing
for save in iptables-save ip6tables-save; do
	$save 2>/dev/null | awk -v s=$save '/^\*/ { t = $1 } /^-A/ { print s, t, $0 } /^:/ && $2 != "ACCEPT" { print s, t, $1, $2 }' | sort
done
nft list tables | grep -v -E ' (ip|ip6) (filter|nat|raw|mangle)$'
nft list ruleset netdev
echo "# interfaces"
ip -o link | sed -E 's/^[0-9]+: ([^:@]*).*/\1/' | sort
ip -4 route
ip rule
ip netns
echo "# switch"
ovs-vsctl --no-headings --columns=name list bridge
ovs-vsctl --no-headings --columns=name,type list interface | sort
ovs-appctl dpctl/dump-dps
ovs-appctl ovs/route/show | grep -v -i cached | grep -i user:
ovs-appctl tnl/neigh/show | tail -n +3
echo "# docker"
docker network ls --format '{{.Name}} {{.Driver}}' | sort
docker info --format '{{range $name, $r := .Runtimes}}{{$name}}{{"\n"}}{{end}}' | grep -v -e '^io\.containerd' -e '^$'
docker ps --all --format '{{.Names}}'
true
