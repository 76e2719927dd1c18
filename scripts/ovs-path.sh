#!/bin/sh
# Makes a directory with the programs of another version of Open vSwitch than this
# machine's (scripts/debian-root.sh ovs VERSION), and prints it: tests that have it first
# on their PATH run that version. The programs see this machine's files; only their
# libraries are the root's.
set -eu
cd "$(dirname "$0")/.."
version=${1:-}
root=$(scripts/debian-root.sh ovs "$version")
dir=$PWD/bin/ovs-$version
rm -rf "$dir.new"
mkdir -p "$dir.new"
# first FILE...: the first that is there, of what a pattern gave.
first() {
	for f; do
		[ ! -e "$f" ] || {
			echo "$f"
			return
		}
	done
	echo "ovs-path: $root has none of $*; remove it and try again" >&2
	exit 1
}
loader=$(first "$root"/lib64/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.*)
libraries=$(first "$root"/usr/lib/*-linux-gnu)
for program in ovs-vswitchd ovsdb-server ovsdb-tool ovsdb-client ovs-vsctl ovs-ofctl ovs-appctl; do
	# ovs-vswitchd is reached by a link of update-alternatives, which leads out of the root.
	file=$(first "$root/usr/lib/openvswitch-switch/$program" "$root/usr/sbin/$program" "$root/usr/bin/$program")
	cat >"$dir.new/$program" <<SCRIPT
#!/bin/sh
exec "$loader" --argv0 "$program" --library-path "$libraries" "$file" "\$@"
SCRIPT
	chmod 755 "$dir.new/$program"
done
ln -s "$root/usr/share/openvswitch/vswitch.ovsschema" "$dir.new/vswitch.ovsschema"
"$dir.new/ovs-vswitchd" --version >&2
rm -rf "$dir"
mv "$dir.new" "$dir"
echo "$dir"
