#!/bin/sh
# mmdebstrap's last step for a virtual machine: what a cloud's image of Debian has
# beyond its packages, and what it needs where there is no internet.
set -eu
root=$1

echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
chroot "$root" systemctl --quiet enable systemd-networkd
rm -f "$root/etc/resolv.conf" # this machine's
: >"$root/etc/resolv.conf"
echo node >"$root/etc/hostname"
cat >"$root/etc/cloud/cloud.cfg.d/90-image.cfg" <<'CFG'
# The image has one locale; emulated, keys take their time; its disk is as large as it is to be.
locale: C.UTF-8
ssh_genkeytypes: [ed25519]
apt: {preserve_sources_list: true}
growpart: {mode: "off"}
resize_rootfs: false
CFG
scripts/guest/busybox.sh "$root"
