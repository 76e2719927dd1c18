#!/bin/sh
# What `docker run busybox` needs where there is no way to a registry, for the root
# file system $1: /usr/local/share/images/busybox.tar, to be given to docker import.
set -eu
root=$1
box=$(mktemp -d)
mkdir -p "$box/bin" "$root/usr/local/share/images"
cp "$root/bin/busybox" "$box/bin/busybox"
for applet in $(chroot "$root" busybox --list); do
	[ "$applet" = busybox ] || ln -s busybox "$box/bin/$applet"
done
mkdir -p "$box/etc" "$box/tmp" "$box/root"
echo 'root:x:0:0:root:/root:/bin/sh' >"$box/etc/passwd"
tar -C "$box" -cf "$root/usr/local/share/images/busybox.tar" .
rm -rf "$box"
