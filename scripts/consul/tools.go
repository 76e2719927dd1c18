//go:build tools

// Package tools pins the Consul that scripts/consul.sh builds when the machine has
// none. It is a module of its own: Consul is run as a program and never linked in.
package tools

import _ "github.com/hashicorp/consul"
