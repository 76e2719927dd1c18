// Package metadata knows where clouds answer, without a password, with what was said
// to a machine when it was made: user-data with the cluster's token, credentials.
package metadata

import "net/netip"

// Service is where a cloud answers.
type Service struct {
	Addrs netip.Prefix
	DNS   bool // it is the cloud's name server too, on port 53 of UDP and TCP
}

// Services are those of the clouds that we know.
var Services = []Service{
	{Addrs: netip.MustParsePrefix("169.254.0.0/16")},              // most: link-local (RFC 3927), which no router forwards to
	{Addrs: netip.MustParsePrefix("168.63.129.16/32"), DNS: true}, // Azure
	{Addrs: netip.MustParsePrefix("100.100.100.200/32")},          // Alibaba Cloud
	{Addrs: netip.MustParsePrefix("192.0.0.192/32")},              // Oracle Cloud, its older machines
}
