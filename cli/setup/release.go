package setup

import "runtime"

// Release is a release of a program by its vendor.
type Release struct {
	Version string
	URL     string // https
	SHA256  string // of the archive, in hexadecimal digits
}

// consulVersion is the release of Consul to download by default.
const consulVersion = "1.22.5"

// consulSums are the checksums of consul_<version>_linux_<architecture>.zip from the
// SHA256SUMS of the release, by architecture.
var consulSums = map[string]string{
	"amd64": "58603b87fd085282f882fcd02b5165c93b321692514b2ab822dec8dd4cd028a3",
	"arm64": "e13bafeb1f5c11b16ca8087387a5ef5b6f7799018f91d5a0705c64c06c5ad61d",
}

// ConsulRelease returns the release for this machine. Its URL is "" if there is none.
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
