// Package metadata lists the addresses at which clouds return, without a password, the
// data that a machine was created with: user-data with the cluster's token, credentials.
package metadata

import "net/netip"

// Service is a metadata service of a cloud.
type Service struct {
	Addrs netip.Prefix
	DNS   bool // the address is also the cloud's name server, on port 53 of UDP and TCP
}

// Services are the metadata services of the clouds that we know.
var Services = []Service{
	{Addrs: netip.MustParsePrefix("169.254.0.0/16")},              // most: link-local (RFC 3927), not forwarded by routers
	{Addrs: netip.MustParsePrefix("168.63.129.16/32"), DNS: true}, // Azure
	{Addrs: netip.MustParsePrefix("100.100.100.200/32")},          // Alibaba Cloud
	{Addrs: netip.MustParsePrefix("192.0.0.192/32")},              // Oracle Cloud, older machines
}
