package lab

import (
	"os"
	"regexp"
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

// mark begins the variable that marks the first process of a host of this lab, and
// of no other lab's.
func mark() string {
	if instance == "" {
		return "SOCKETPLANE_LAB_HOST="
	}
	return "SOCKETPLANE_LAB_HOST_" + instance + "="
}
