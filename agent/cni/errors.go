package cni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/socketplane/socketplane/agent/api"
)

// Error codes of the plugin. The specification reserves 100 and above for plugins.
const (
	codeInternal  uint = 100 + iota
	codeNotFound       // the network, or the object that CHECK looks for, does not exist
	codeConflict       // the address, interface name or port is taken
	codeInUse          // it cannot be removed while others use it
	codeExhausted      // the network has no free address
	codeDiffers        // CHECK: the actual state differs from the result
)

// codes maps the agent's error codes to those of the specification. No other code does
// this.
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
	return codeInternal // a code that only a newer agent knows
}

// failf returns an error of the specification. Its message is one line without control
// characters.
func failf(code uint, format string, args ...any) *types.Error {
	return types.NewError(code, oneLine(fmt.Sprintf(format, args...)), "")
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
}

// shown quotes external text and truncates it to 80 bytes.
func shown(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}

// short truncates external JSON to 80 bytes.
func short(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}
