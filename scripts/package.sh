#!/bin/sh
# Builds bin/socketplane_<version>_<architecture>.deb with nfpm, which is built
# from the module proxy once; and in bin/release what install.sh downloads: the
# program, and install.sh itself with the program's checksum.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
nfpm_version=v2.45.2 # v2.48.0 does not build from the module proxy
nfpm=bin/tools/nfpm-$nfpm_version

scripts/build.sh
if ! [ -x $nfpm ]; then
	echo "package: building nfpm $nfpm_version, once (half a minute)"
	mkdir -p bin/tools
	GOBIN=$PWD/bin/tools CGO_ENABLED=0 go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$nfpm_version
	mv bin/tools/nfpm $nfpm
fi

# A version of Debian's begins with a digit and sorts: v1.2.3-4-gabc becomes
# 1.2.3+4.gabc, and v1.2.3-rc.1 becomes 1.2.3~rc.1.
described=$(scripts/version.sh)
case $described in
v[0-9]*) version=$(echo "${described#v}" | sed 's/-rc\./~rc./; s/-/+/; s/-/./g') ;;
*) version=0~$described ;;
esac
arch=$(go env GOARCH)

work=bin/package
rm -rf $work
mkdir -p $work
for shell in bash zsh fish; do
	bin/socketplane completion $shell >$work/completion.$shell
done
VERSION=$version ARCH=$arch $nfpm package --config scripts/package/nfpm.yaml --packager deb \
	--target "bin/socketplane_${version}_$arch.deb" >/dev/null
rm -rf $work

mkdir -p bin/release
cp bin/socketplane "bin/release/socketplane_linux_$arch"
sum=$(sha256sum "bin/release/socketplane_linux_$arch" | cut -d ' ' -f 1)
sed -e "s/^version=''\$/version='$described'/" -e "s/^sum_$arch=''\$/sum_$arch='$sum'/" \
	scripts/install.sh >bin/release/install.sh

echo "bin/socketplane_${version}_$arch.deb is built"
