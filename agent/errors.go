package agent

import (
	"context"
	"errors"
	"io/fs"

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
	err  error
	code api.Code
}{
	{network.ErrNotFound, api.CodeNotFound},
	{network.ErrExists, api.CodeConflict},
	{network.ErrOverlap, api.CodeConflict},
	{network.ErrInUse, api.CodeInUse},
	{network.ErrNoVLAN, api.CodeExhausted},
	{network.ErrNoSubnet, api.CodeExhausted},
	{ipam.ErrExhausted, api.CodeExhausted},
	{ipam.ErrTaken, api.CodeConflict},
	{ipam.ErrOwnerHas, api.CodeConflict},
	{ipam.ErrOutside, api.CodeConflict},
	{ipam.ErrReserved, api.CodeConflict},
	{link.ErrNotNamespace, api.CodeInvalid},
	{link.ErrHostNamespace, api.CodeInvalid},
	{link.ErrExists, api.CodeConflict},
	{fs.ErrNotExist, api.CodeInvalid}, // of a namespace's path
	{ovs.ErrForeign, api.CodeConflict},
	{ovs.ErrUnavailable, api.CodeUnavailable},
	{state.ErrUnavailable, api.CodeUnavailable},
	{state.ErrInvalid, api.CodeUnavailable},
	{state.ErrConflict, api.CodeConflict},
	{context.DeadlineExceeded, api.CodeUnavailable},
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
			return &api.Error{Code: c.code, Message: err.Error(), Cause: err}
		}
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error(), Cause: err}
}
