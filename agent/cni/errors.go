package cni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/socketplane/socketplane/agent/api"
)

// Codes of our own; the specification leaves 100 and above to plugins.
const (
	codeInternal  uint = 100 + iota
	codeNotFound       // the network, or what CHECK looks for, is not there
	codeConflict       // something else has it: an address, an interface name, a port
	codeInUse          // it cannot go while others use it
	codeExhausted      // the network has no free address
	codeDiffers        // CHECK: what is there is not what the result says
)

// codes says which code of the specification each of the agent's means. It is
// the one place where that is decided.
var codes = map[api.Code]uint{
	api.CodeInvalid:     types.ErrInvalidNetworkConfig,
	api.CodeNotFound:    codeNotFound,
	api.CodeConflict:    codeConflict,
	api.CodeInUse:       codeInUse,
	api.CodeExhausted:   codeExhausted,
	api.CodeUnavailable: types.ErrTryAgainLater,
	api.CodeInternal:    codeInternal,
}

func codeOf(err error) uint {
	if errors.Is(err, api.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) {
		return types.ErrTryAgainLater
	}
	if code, ok := codes[api.CodeOf(err)]; ok {
		return code
	}
	return codeInternal // a newer agent's code
}

// failf makes an error of the specification: one line, free of control characters.
func failf(code uint, format string, args ...any) *types.Error {
	return types.NewError(code, oneLine(fmt.Sprintf(format, args...)), "")
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
}

// shown quotes what came from outside, cut short.
func shown(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}

// short is JSON from outside, cut short.
func short(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}
