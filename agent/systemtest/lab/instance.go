package lab

import (
	"os"
	"regexp"
	"strings"
)

// InstanceEnv names a lab, so that several can be up at once: 1 to 8 lower-case
// letters and digits. Without it the lab is the one that people mean.
const InstanceEnv = "SOCKETPLANE_LAB"

// instance is the lab's name; empty for the usual one. A name that cannot be one
// is told by Up.
var instance = os.Getenv(InstanceEnv)

var instancePattern = regexp.MustCompile(`^[a-z0-9]{0,8}$`)

// usualStateDir is the one without a name.
const usualStateDir = "/var/lib/socketplane-lab"

func stateDir() string {
	if instance == "" {
		return usualStateDir
	}
	return usualStateDir + "-" + instance
}

// ofThisLab gives the host that a mark names; "" when it is another lab's.
func ofThisLab(mark string) string {
	lab, host, named := strings.Cut(mark, "/")
	if !named {
		lab, host = "", mark
	}
	if lab != instance {
		return ""
	}
	return host
}

// marked is how a host of this lab is called in the mark of its first process.
func marked(host string) string {
	if instance == "" {
		return host
	}
	return instance + "/" + host
}
