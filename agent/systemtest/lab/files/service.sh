#!/bin/sh
# lab-service (also lab-ovs): start, stop, kill or restart one of this lab host's
# programs, as its owner would by hand. No supervisor stands behind them.
set -eu
usage() {
	echo "usage: ${0##*/} start|stop|kill|restart|status ovsdb-server|ovs-vswitchd|consul|dockerd" >&2
	exit 2
}
[ $# -eq 2 ] || usage
verb=$1 service=$2
name='' addr='' dir='' prefix=''
# shellcheck disable=SC1091 # sets the four; written when the host starts
. /run/lab/host

case $service in
ovsdb-server | ovs-vswitchd) pidfile=/run/openvswitch/$service.pid ;;
consul) pidfile=/run/lab/consul.pid ;;
dockerd) pidfile=/run/docker.pid ;;
*) usage ;;
esac

# pid prints the live process of the service; a stale pid file counts as none.
pid() {
	read -r p 2>/dev/null <"$pidfile" || [ -n "${p:-}" ] || return 1
	read -r comm 2>/dev/null <"/proc/$p/comm" || return 1
	[ "$comm" = "$service" ] || return 1
	# A process that died and waits for its reaper is not alive.
	case $(cut -d' ' -f3 "/proc/$p/stat" 2>/dev/null) in Z | '') return 1 ;; esac
	echo "$p"
}

# await polls a command for up to $1 seconds; it gives up early when the process
# that was just started ($child) has died.
child=
await() {
	limit=$(($1 * 20))
	shift
	while ! "$@" >/dev/null 2>&1; do
		limit=$((limit - 1))
		[ $limit -gt 0 ] || return 1
		[ -z "$child" ] || [ "$(cut -d' ' -f3 "/proc/$child/stat" 2>/dev/null)" != Z ] || return 1
		sleep 0.05
	done
}

gone() { ! pid; }

# uplink puts the wire into br-phy and the host's address onto it, as a
# machine's own network configuration does after the switch has come up.
uplink() {
	ovs-vsctl -t 20 -- --may-exist add-br br-phy \
		-- set bridge br-phy datapath_type=netdev \
		-- --may-exist add-port br-phy ul0
	ip addr replace "$addr/24" dev br-phy
	ip link set br-phy up
	ip route replace default via 198.18.0.254
}

start() {
	if p=$(pid); then
		echo "$service is already running (pid $p)"
		return 0
	fi
	case $service in
	ovsdb-server)
		mkdir -p /run/openvswitch /var/log/openvswitch
		db=/etc/openvswitch/conf.db
		[ -e $db ] || ovsdb-tool create $db /usr/share/openvswitch/vswitch.ovsschema
		id=/etc/openvswitch/system-id.conf
		[ -e $id ] || cat /proc/sys/kernel/random/uuid >$id
		ovsdb-server $db --remote=punix:/run/openvswitch/db.sock \
			-vconsole:off --pidfile --detach --log-file
		ovs-vsctl -t 20 --no-wait -- init -- set Open_vSwitch . \
			"external_ids:system-id=$(cat $id)" "external_ids:hostname=$name"
		;;
	ovs-vswitchd)
		ovs-vswitchd unix:/run/openvswitch/db.sock \
			-vconsole:off --pidfile --detach --log-file
		uplink
		;;
	consul)
		setsid consul agent -config-file="$dir/consul/consul.json" \
			>>/var/log/consul.log 2>&1 </dev/null 3>&- &
		child=$!
		echo $child >"$pidfile"
		await 30 busybox wget -q -O - http://127.0.0.1:8500/v1/status/leader ||
			fail /var/log/consul.log
		;;
	dockerd)
		# daemon.json is left to whoever sets the host up; the lab's own
		# settings are flags that no such file repeats.
		setsid dockerd --cgroup-parent="/$prefix/$name" \
			--exec-opt native.cgroupdriver=cgroupfs --pidfile "$pidfile" \
			>>/var/log/dockerd.log 2>&1 </dev/null 3>&- &
		child=$!
		await 60 docker version || fail /var/log/dockerd.log
		;;
	esac
}

fail() {
	echo "$service does not come up; the end of $1:" >&2
	tail -n 15 "$1" >&2
	exit 1
}

# end sends a signal and returns when the process is gone.
end() {
	p=$(pid) || return 0
	kill "-$1" "$p"
	await 30 gone || {
		echo "$service (pid $p) does not end" >&2
		exit 1
	}
}

case $verb in
start) start ;;
stop) end TERM ;;
kill) end KILL ;;
restart)
	end TERM
	start
	;;
status)
	if p=$(pid); then
		echo "$service runs (pid $p)"
	else
		echo "$service does not run"
		exit 3
	fi
	;;
*) usage ;;
esac
