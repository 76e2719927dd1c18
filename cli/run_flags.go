package cli

import "strings"

// dockerBooleans returns the flags of `docker run` without a value, from Docker 20.10 to
// 28 (docker/cli, cli/command/container/{run,opts}.go). Every other flag has a value, even
// if it is not known here.
func dockerBooleans() map[string]bool {
	return map[string]bool{
		"d": true, "detach": true,
		"disable-content-trust": true,
		"help":                  true,
		"init":                  true,
		"i":                     true, "interactive": true,
		"no-healthcheck":   true,
		"oom-kill-disable": true,
		"privileged":       true,
		"P":                true, "publish-all": true,
		"q": true, "quiet": true,
		"read-only": true,
		"rm":        true,
		"sig-proxy": true,
		"t":         true, "tty": true,
		"use-api-socket": true,

		"debug": true, "forwarding": true, // our own
	}
}

// refusal returns why a flag of Docker cannot be used and what to use instead, or "" if it
// can.
func refusal(name string) string {
	switch name {
	case "net":
		return "name the network with -n NETWORK"
	case "runtime":
		return "the container gets its network through socketplane's own runtime"
	case "mac-address":
		return "the MAC address follows from the IP address; choose that with --ip"
	case "link":
		return "containers reach each other by their addresses"
	case "network-alias", "net-alias", "link-local-ip":
		return "it belongs to Docker's own networks"
	case "ip6":
		return "networks are IPv4"
	}
	return ""
}

// flagText formats a flag as a user writes it.
func flagText(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// canonical maps shorthands that this program uses to their long names.
func canonical(name string) string {
	switch name {
	case "d":
		return "detach"
	case "i":
		return "interactive"
	case "t":
		return "tty"
	case "a":
		return "attach"
	case "n":
		return "network"
	case "p":
		return "publish"
	case "P":
		return "publish-all"
	}
	return name
}

// attaches reports whether -a names the stream. Without -a it returns otherwise.
func attaches(streams []string, stream string, otherwise bool) bool {
	if len(streams) == 0 {
		return otherwise
	}
	for _, s := range streams {
		if strings.EqualFold(s, stream) {
			return true
		}
	}
	return false
}
