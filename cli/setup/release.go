package setup

import "runtime"

// Release is a program's release as its maker distributes it.
type Release struct {
	Version string
	URL     string // https
	SHA256  string // of the archive, in hexadecimal digits
}

// consulVersion is the release that is fetched where none is given.
const consulVersion = "1.22.5"

// consulSums are of consul_<version>_linux_<architecture>.zip, as in the
// SHA256SUMS of the release.
var consulSums = map[string]string{
	"amd64": "58603b87fd085282f882fcd02b5165c93b321692514b2ab822dec8dd4cd028a3",
	"arm64": "e13bafeb1f5c11b16ca8087387a5ef5b6f7799018f91d5a0705c64c06c5ad61d",
}

// ConsulRelease is the release for this machine; without a URL when there is none.
func ConsulRelease() Release {
	sum, ok := consulSums[runtime.GOARCH]
	if !ok {
		return Release{Version: consulVersion}
	}
	const site = "https://releases.hashicorp.com/consul/"
	return Release{
		Version: consulVersion, SHA256: sum,
		URL: site + consulVersion + "/consul_" + consulVersion + "_linux_" + runtime.GOARCH + ".zip",
	}
}
