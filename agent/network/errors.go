package network

import (
	"errors"
	"fmt"
	"strings"

	"github.com/socketplane/socketplane/agent/stored"
)

// Sentinel errors. An error of this package is a full sentence that names the network,
// advises what to do, and wraps one of these. Other errors are an *api.Error for an
// invalid name or subnet, or those of the store or the context.
var (
	ErrExists    = errors.New("network exists and is another")
	ErrOverlap   = errors.New("subnet overlaps")
	ErrInUse     = errors.New("network is in use")
	ErrNotFound  = errors.New("network does not exist")
	ErrNoVLAN    = errors.New("no VLAN is free")
	ErrNoSubnet  = errors.New("no subnet is free")
	ErrBadRecord = errors.New("value cannot be decoded")
)

// refusal is a sentinel error with its message.
type refusal struct {
	kind error
	text string
}

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind: kind, text: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

// InUseError reports which hosts prevent the deletion of a network. It wraps ErrInUse.
type InUseError struct {
	Network   string
	Hosts     []string // UUIDs, sorted
	Endpoints int      // total; 0 if a host's list could not be read
}

func (e *InUseError) Error() string {
	what := "endpoints"
	switch {
	case e.Endpoints == 1:
		what = "1 endpoint"
	case e.Endpoints > 1:
		what = fmt.Sprintf("%d endpoints", e.Endpoints)
	}
	const most = 4 // hosts in one line
	hosts := e.Hosts
	more := ""
	if len(hosts) > most {
		more = fmt.Sprintf(" and %d more", len(hosts)-most)
		hosts = hosts[:most]
	}
	noun := "host"
	if len(e.Hosts) > 1 {
		noun = "hosts"
	}
	return fmt.Sprintf("network %q has %s on %s %s%s; remove them first", e.Network, what, noun, strings.Join(hosts, ", "), more)
}

// Unwrap returns ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// BadRecordError reports a key of the store whose value is invalid. The value is left
// unchanged. It wraps ErrBadRecord.
type BadRecordError struct {
	Key   string
	Cause error
}

func (e *BadRecordError) Error() string {
	if errors.Is(e.Cause, stored.ErrNewer) {
		return fmt.Sprintf("value of key %q in the store: %v", e.Key, e.Cause)
	}
	return fmt.Sprintf("value of key %q in the store cannot be decoded (%v); mend it or delete the key", e.Key, e.Cause)
}

// Unwrap returns ErrBadRecord and the cause.
func (e *BadRecordError) Unwrap() []error { return []error{ErrBadRecord, e.Cause} }
