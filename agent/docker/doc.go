// Package docker owns what stands between Docker and the api: the registration
// of our runtime (package oci) with dockerd; the watcher that releases what
// belonged to removed containers; and the few calls of Docker's API that
// `socketplane run` makes. It never touches a network itself.
package docker
