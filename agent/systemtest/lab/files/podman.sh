#!/bin/sh
# lab-podman: runs Podman of the root that holds this lab host's, in the namespace that
# the host's first process made for it.
set -eu
read -r pid </run/lab/podman.pid
exec nsenter --target "$pid" --mount -- "${0##*/}" "$@"
