package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// codes maps the sentinel errors of the packages below to API codes. All such decisions
// are made here.
var codes = []struct {
	err    error
	code   api.Code
	remedy string // what to do, if the error's text does not say it
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
	{link.ErrNotOwner, api.CodeForbidden, "attach a namespace that you made (unshare --user --net), or ask root"},
	{link.ErrExists, api.CodeConflict, "choose another interface name, or another namespace"},
	{nat.ErrNotHere, api.CodeInvalid, "give one of its own, or none"},
	{ovs.ErrForeign, api.CodeConflict, ""},
	{ovs.ErrUnavailable, api.CodeUnavailable, "see that ovsdb-server and ovs-vswitchd run, and try again"},
	{state.ErrUnavailable, api.CodeUnavailable, "see that it runs, and try again"},
	// The agent checks names and sizes before it calls the store. What the store still
	// refuses is the agent's access, which only an operator can repair.
	{state.ErrInvalid, api.CodeUnavailable, "see that the agent's token may write under " + state.Prefix},
	{state.ErrConflict, api.CodeConflict, "try again"},
	{context.DeadlineExceeded, api.CodeUnavailable, "try again"},
	{context.Canceled, api.CodeUnavailable, "try again"},
}

// translate wraps an error of the packages below in an api.Error with a code and a
// message of one line. An error that already has a code keeps it.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if said, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{Code: said.Code, Message: oneLine(err.Error()), Cause: cmp.Or(said.Cause, err)}
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			message := err.Error()
			if c.remedy != "" {
				message += "; " + c.remedy
			}
			return &api.Error{Code: c.code, Message: oneLine(message), Cause: err}
		}
	}
	return &api.Error{Code: api.CodeInternal, Message: oneLine(err.Error()), Cause: err}
}

// maxMessage bounds a message, in bytes, because the output of programs can be long.
const maxMessage = 1000

// oneLine turns joined errors, or the output of a program, into one line.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.Join(lines, "; "))
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// sentences splits a joined error into one line per error.
func sentences(err error) []string {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || !strings.Contains(err.Error(), "\n") {
		return []string{oneLine(err.Error())}
	}
	var all []string
	for _, e := range joined.Unwrap() {
		all = append(all, sentences(e)...)
	}
	return all
}

// away reports whether an error means that the store is unavailable: it does not answer,
// or denies access.
func away(err error) bool {
	return errors.Is(err, state.ErrUnavailable) || errors.Is(err, state.ErrInvalid) || errors.Is(err, context.DeadlineExceeded)
}

// late adds state.ErrUnavailable to a deadline error, because the deadline passed while
// something waited for the store.
func late(what string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, state.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%s: %w: %w", what, state.ErrUnavailable, err)
}

// explainAddress rewrites the error about a refused address. The new message names the
// network, the holder and a remedy.
func (a *Agent) explainAddress(err error, r network.Record) error {
	err = late(fmt.Sprintf("allocate an address of %s", r.Subnet), err)
	taken, isTaken := errors.AsType[*ipam.TakenError](err)
	has, isHas := errors.AsType[*ipam.OwnerHasError](err)
	said := func(code api.Code, format string, args ...any) error {
		return &api.Error{Code: code, Cause: err, Message: fmt.Sprintf("network %q: ", r.ID) + oneLine(fmt.Sprintf(format, args...))}
	}
	switch {
	case isTaken:
		if network.KeepsAddress(taken.Owner) {
			return said(api.CodeConflict, "address %s is kept from containers (docker network create --aux-address); choose another or omit it", taken.Addr)
		}
		host, id, _ := strings.Cut(taken.Owner, "/")
		return said(api.CodeConflict, "address %s is taken by %q on host %q; choose another or omit it",
			taken.Addr, a.endpointName(r.ID, host, id), a.hostName(host))
	case isHas:
		_, id, _ := strings.Cut(has.Owner, "/")
		return said(api.CodeConflict, "%q has address %s already; disconnect it first, or use another id", id, has.Addr)
	case errors.Is(err, ipam.ErrOutside), errors.Is(err, ipam.ErrReserved):
		return said(api.CodeConflict, "%v; choose another or omit it", err)
	case errors.Is(err, ipam.ErrExhausted):
		return said(api.CodeExhausted, "%v; remove containers that are not needed, or create a larger network", err)
	}
	return err
}

// endpointName returns the container name of an endpoint if it is known, else the
// endpoint's id.
func (a *Agent) endpointName(networkID, hostID, id string) string {
	if l, ok := a.table.get(id); ok && hostID == a.id {
		return cmp.Or(l.ContainerName, id)
	}
	for _, ep := range a.view.remotes(networkID)[hostID] {
		if ep.ID == id {
			return cmp.Or(ep.ContainerName, id)
		}
	}
	return id
}

// hostName returns the name of a host for users, or its id if there is no record. Names
// need not be unique: if two hosts share a name, hostName appends the first 8 characters
// of the id.
func (a *Agent) hostName(id string) string {
	own := a.host()
	name := a.view.hostName(id)
	if id == a.id {
		name = own.Name
	}
	if id != a.id && name == own.Name || a.view.namesake(id, name) {
		return fmt.Sprintf("%s (%s)", name, id[:min(8, len(id))])
	}
	return name
}
