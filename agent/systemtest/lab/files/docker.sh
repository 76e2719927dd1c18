#!/bin/sh
# lab-docker: runs the program of its own name below the root that holds this lab
# host's Docker.
set -eu
program=${0##*/}
dir=''
# shellcheck disable=SC1091 # sets dir; written when the host starts
. /run/lab/host
[ "$program" = dockerd ] || exec chroot "$dir/docker" "$program" "$@"

# Who enters a container's mount namespace begins at that namespace's root. Below a
# chroot that is the host's and not the container's, so dockerd gets the real root.
# The old one is made private first: /run is shared with the host, and what is
# mounted there must stay.
export DOCKER_MIN_API_VERSION=1.44 # Docker 29's: what it refuses is refused here too
# shellcheck disable=SC2016 # for the shell that is begun
exec unshare --mount --propagation unchanged sh -euc '
	cd "$0"
	pivot_root . .old
	cd /
	mount --make-rprivate /.old
	umount -l /.old
	exec dockerd "$@"' "$dir/docker" "$@"
