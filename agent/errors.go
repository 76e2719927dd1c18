package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// codes says which api code each sentinel of the packages below means. It is
// the one place where that is decided.
var codes = []struct {
	err    error
	code   api.Code
	remedy string // what to do, where the error's own sentence does not say it
}{
	{network.ErrNotFound, api.CodeNotFound, ""},
	{network.ErrExists, api.CodeConflict, ""},
	{network.ErrOverlap, api.CodeConflict, ""},
	{network.ErrInUse, api.CodeInUse, ""},
	{network.ErrNoVLAN, api.CodeExhausted, ""},
	{network.ErrNoSubnet, api.CodeExhausted, ""},
	{ipam.ErrExhausted, api.CodeExhausted, ""},
	{ipam.ErrTaken, api.CodeConflict, ""},
	{ipam.ErrOwnerHas, api.CodeConflict, "disconnect it first, or use another id"},
	{ipam.ErrOutside, api.CodeConflict, ""},
	{ipam.ErrReserved, api.CodeConflict, ""},
	{link.ErrNotNamespace, api.CodeInvalid, "give a path like /run/netns/NAME or /proc/PID/ns/net"},
	{link.ErrHostNamespace, api.CodeInvalid, "give a container's, like /run/netns/NAME or /proc/PID/ns/net"},
	{link.ErrExists, api.CodeConflict, "choose another interface name, or another namespace"},
	{ovs.ErrForeign, api.CodeConflict, ""},
	{ovs.ErrUnavailable, api.CodeUnavailable, "see that ovsdb-server and ovs-vswitchd run, and try again"},
	{state.ErrUnavailable, api.CodeUnavailable, "see that it runs, and try again"},
	{state.ErrInvalid, api.CodeUnavailable, ""},
	{state.ErrConflict, api.CodeConflict, ""},
	{context.DeadlineExceeded, api.CodeUnavailable, ""},
}

// translate gives an error of the packages below its api code. An error that
// has one keeps it.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			message := err.Error()
			if c.remedy != "" {
				message += "; " + c.remedy
			}
			return &api.Error{Code: c.code, Message: message, Cause: err}
		}
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error(), Cause: err}
}

// refusesNamespace says whether an error is about the path or the inside of a
// namespace that somebody gave, not about the endpoint's own interface.
func refusesNamespace(err error) bool {
	for _, e := range []error{link.ErrNotNamespace, link.ErrHostNamespace, link.ErrExists} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// explainAddress says of a refused address which network it is about, who has
// it, and what to do.
func (a *Agent) explainAddress(err error, r network.Record) error {
	taken, isTaken := errors.AsType[*ipam.TakenError](err)
	switch {
	case isTaken:
		host, id, _ := strings.Cut(taken.Owner, "/")
		return &api.Error{Code: api.CodeConflict, Cause: err, Message: fmt.Sprintf(
			"network %q: address %s is taken by %q on host %q; choose another or omit it", r.ID, taken.Addr, id, a.view.hostName(host))}
	case errors.Is(err, ipam.ErrOutside), errors.Is(err, ipam.ErrReserved):
		return &api.Error{Code: api.CodeConflict, Cause: err, Message: fmt.Sprintf("network %q: %v; choose another or omit it", r.ID, err)}
	case errors.Is(err, ipam.ErrExhausted):
		return &api.Error{Code: api.CodeExhausted, Cause: err, Message: fmt.Sprintf(
			"network %q: %v; remove containers that are not needed, or create a larger network", r.ID, err)}
	}
	return err
}
