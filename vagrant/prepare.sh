#!/bin/sh
# Runs on the host before a guest is made: prepare.sh SHARE PROVIDER. It puts into
# SHARE, which the guests see as /vagrant, what they need: the build, Consul, the
# cluster's token. Quick when all is there.
set -eu
share=$1 provider=$2
cd "$(dirname "$0")/.."

umask 022
mkdir -p "$share/bin"
exec 9>"$share/.lock"
flock 9 # guests are made at the same time

# put FILE NAME
put() {
	cmp -s "$1" "$share/bin/$2" || {
		cp --dereference "$1" "$share/bin/$2.new"
		mv "$share/bin/$2.new" "$share/bin/$2"
	}
}
scripts/build.sh
scripts/consul.sh
put bin/socketplane socketplane
put "$(command -v consul || echo bin/consul)" consul

# Made before the first host is born, so that all can be given the same. It is in no
# argument, no environment and no log; root of a guest reads it from the file.
if [ ! -s "$share/token" ]; then
	(umask 077 && bin/socketplane cluster token --new >"$share/token.new")
	mv "$share/token.new" "$share/token"
fi

[ "$provider" = docker ] || exit 0
image=$(scripts/machine-image.sh guest)
tag=$(basename "$image" .tar)
if ! docker image inspect "socketplane-guest:$tag" >/dev/null 2>&1; then
	echo "prepare: taking $image into Docker, as the image socketplane-guest"
	docker import "$image" "socketplane-guest:$tag" >/dev/null
fi
docker tag "socketplane-guest:$tag" socketplane-guest:latest
