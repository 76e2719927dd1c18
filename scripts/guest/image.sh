#!/bin/sh
# mmdebstrap's last step for a guest: the user that Vagrant logs in as, and what a
# container wants that a virtual machine does not.
set -eu
root=$1

chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
# Vagrant's well-known key opens the door once: `vagrant up` puts one of its own in its place.
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 vagrant/vagrant.pub "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/vagrant.conf"

# Docker mounts the control groups read-only; the Docker inside wants to write.
install -D -m 644 agent/systemtest/machine/files/cgroups.conf "$root/etc/systemd/system/docker.service.d/cgroups.conf"
install -m 755 scripts/guest/userspace-uplink "$root/usr/local/sbin/"
install -m 644 scripts/guest/userspace-uplink@.service "$root/etc/systemd/system/"

# Containers have their addresses from Docker; cloud-init would want to set them.
echo 'network: {config: disabled}' >"$root/etc/cloud/cloud.cfg.d/99-container.cfg"

scripts/guest/busybox.sh "$root"
