// Package docker owns the connection between Docker and the api: the registration of our
// runtime (package oci) with dockerd, the watcher that releases the endpoints of removed
// containers, and the few calls of Docker's API that `socketplane run` makes. It never
// changes a network itself.
package docker
