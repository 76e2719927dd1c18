// Package docker owns what stands between Docker and the api: the wrapper
// runtime and its OCI hooks, which attach a container before its process runs;
// the runtime's registration with dockerd; the watcher that releases what
// belonged to removed containers; and the few calls of Docker's API that
// `socketplane run` makes. It never touches a network itself.
package docker
