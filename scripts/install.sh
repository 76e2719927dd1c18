#!/bin/sh
# Sets this host up: fetches socketplane, verifies it, and has it install itself.
#
#   curl -sSL https://.../install.sh | sudo BOOTSTRAP=true sh
#   curl -sSL https://.../install.sh | sudo sh -s -- --join 10.254.101.21 --token-file /root/token
#   sudo SOCKETPLANE_FROM=/media/usb sh install.sh
#
# What follows `sh -s --` goes to `socketplane install`; see `socketplane install --help`.
#   BOOTSTRAP=true         begin a cluster with this host
#   SOCKETPLANE_FROM=DIR   download nothing: DIR holds socketplane, and consul or its release's
#                          archive; a file SHA256SUMS in it is heeded
#   SOCKETPLANE_URL=URL    another place (https) to download the same release from
set -eu

# Filled in when a release is made (scripts/package.sh). A download that has not
# this checksum is never run.
version=''
sum_amd64=''
sum_arm64=''
default_url='https://github.com/socketplane/socketplane/releases/download'

say() { echo "install.sh: $*"; }
die() {
	echo "install.sh: $*" >&2
	exit 1
}

# verify FILE SHA256
verify() {
	got=$(sha256sum "$1" | cut -d ' ' -f 1)
	[ "$got" = "$2" ] || die "$(basename "$1"): the checksum (sha256) is $got and must be $2: it is not used"
}

# fetch URL FILE
fetch() {
	if command -v curl >/dev/null; then
		curl --proto '=https' --tlsv1.2 -fsSL --retry 3 --max-time 600 -o "$2" "$1"
	elif command -v wget >/dev/null; then
		wget -q --tries=3 -O "$2" "$1"
	else
		die "neither curl nor wget is here; install one, or say SOCKETPLANE_FROM=DIR"
	fi || die "$1 could not be fetched; see whether this host reaches it, or say SOCKETPLANE_FROM=DIR"
}

# from_directory DIR: the program that lies in it, into $work.
from_directory() {
	[ -f "$1/socketplane" ] || die "SOCKETPLANE_FROM=$1: there is no socketplane in it"
	cp "$1/socketplane" "$work/socketplane"
	if [ -f "$1/SHA256SUMS" ]; then
		want=$(awk '$2 == "socketplane" || $2 == "*socketplane" { print $1 }' "$1/SHA256SUMS")
		[ -n "$want" ] || die "$1/SHA256SUMS does not name socketplane"
		verify "$work/socketplane" "$want"
	fi
}

# from_release: the program of the release, into $work.
from_release() {
	[ -n "$version" ] || die "this copy of install.sh is of no release and knows no checksum; take a release's, or say SOCKETPLANE_FROM=DIR"
	case $(uname -m) in
	x86_64) arch=amd64 want=$sum_amd64 ;;
	aarch64) arch=arm64 want=$sum_arm64 ;;
	*) arch=$(uname -m) want='' ;;
	esac
	[ -n "$want" ] || die "release $version is not made for $arch; build it: https://github.com/socketplane/socketplane"
	url=${SOCKETPLANE_URL:-$default_url/$version}
	case $url in
	https://*) ;;
	*) die "SOCKETPLANE_URL=$url is not https" ;;
	esac
	say "downloading socketplane $version"
	fetch "$url/socketplane_linux_$arch" "$work/socketplane"
	verify "$work/socketplane" "$want"
}

# All is in a function: a script that arrived in part does nothing.
main() {
	[ "$(uname -s)" = Linux ] || die "this is for Linux"
	[ "$(id -u)" -eq 0 ] || die "this changes the host and must be run as root: curl ... | sudo sh"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM HUP
	if [ -n "${SOCKETPLANE_FROM:-}" ]; then
		from_directory "$SOCKETPLANE_FROM"
		set -- --from "$SOCKETPLANE_FROM" "$@"
	else
		from_release
	fi
	chmod 755 "$work/socketplane"
	"$work/socketplane" install --unattended "$@"
}

main "$@"
