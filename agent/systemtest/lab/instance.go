package lab

import (
	"os"
	"regexp"
)

// InstanceEnv is the environment variable with the name of a lab, so that several labs can
// be up at once. A name is 1 to 8 lower-case letters and digits. Without a name it is the
// usual lab.
const InstanceEnv = "SOCKETPLANE_LAB"

// instance is the name of the lab, or "" for the usual one. Up checks it.
var instance = os.Getenv(InstanceEnv)

var instancePattern = regexp.MustCompile(`^[a-z0-9]{0,8}$`)

// usualStateDir is the state directory of the lab without a name.
const usualStateDir = "/var/lib/socketplane-lab"

func stateDir() string {
	if instance == "" {
		return usualStateDir
	}
	return usualStateDir + "-" + instance
}

// mark returns the start of the environment variable that marks the first process of a
// host. It differs between labs.
func mark() string {
	if instance == "" {
		return "SOCKETPLANE_LAB_HOST="
	}
	return "SOCKETPLANE_LAB_HOST_" + instance + "="
}
