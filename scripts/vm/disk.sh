#!/bin/sh
# Makes what a virtual machine boots, unless it was made before: disk.img with an
# image of Debian (scripts/machine-image.sh vm) and Consul, vmlinuz and initrd.img.
# The directory they are in is the last line printed.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
tree=$(scripts/machine-image.sh vm | tail -n 1)
consul=$(command -v consul || echo bin/consul)
[ -x "$consul" ] || {
	echo "vm: there is no consul: make consul" >&2
	exit 1
}
sum=$( (echo "$tree" && sha256sum <"$consul" && cat scripts/vm/disk.sh) | sha256sum | cut -c 1-12)
dir=bin/vm-$sum
exec 9>bin/.vm.lock
flock 9 # several may want it at once: the first makes it
if [ ! -e "$dir" ]; then
	echo "vm: making a disk, once (ten seconds)" >&2
	work=$(mktemp -d /var/tmp/socketplane-vm-XXXXXX)
	trap 'rm -rf "$work" "$dir.new"' EXIT
	trap 'exit 130' INT TERM HUP
	tar -C "$work" -xf "$tree"
	install -m 755 "$consul" "$work/usr/local/bin/consul"
	mkdir -p "$dir.new"
	mv "$work"/boot/vmlinuz-* "$dir.new/vmlinuz"
	mv "$work"/boot/initrd.img-* "$dir.new/initrd.img"
	truncate -s 4G "$dir.new/disk.img"
	mke2fs -q -t ext4 -d "$work" "$dir.new/disk.img" >&2
	mv "$dir.new" "$dir"
fi
echo "$dir"
