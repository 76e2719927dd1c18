package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of failure an Error is; it is stable and travels over the wire.
type Code string

// The codes. Each has one HTTP status, see Code.HTTPStatus.
const (
	CodeInvalid     Code = "invalid"     // the request itself is wrong: mend it and ask again
	CodeNotFound    Code = "not_found"   // what it names is not there
	CodeConflict    Code = "conflict"    // something else has it: a name, an address, a subnet
	CodeInUse       Code = "in_use"      // it cannot go while others use it
	CodeExhausted   Code = "exhausted"   // nothing is free
	CodeUnavailable Code = "unavailable" // a part this needs cannot be reached now: Open vSwitch, Consul
	CodeForbidden   Code = "forbidden"   // who asks may not have it
	CodeInternal    Code = "internal"
)

// Error is a failure that a caller can act on. Message is one sentence that
// names the thing and says what to do; the cause is for --debug and logs.
type Error struct {
	Code    Code
	Message string
	Cause   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error. An operand of %w becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// CodeOf gives the code of the first Error in the chain, else CodeInternal.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

var httpStatus = map[Code]int{
	CodeInvalid:     http.StatusBadRequest,
	CodeNotFound:    http.StatusNotFound,
	CodeConflict:    http.StatusConflict,
	CodeInUse:       http.StatusConflict,
	CodeExhausted:   http.StatusConflict,
	CodeUnavailable: http.StatusServiceUnavailable,
	CodeForbidden:   http.StatusForbidden,
	CodeInternal:    http.StatusInternalServerError,
}

// HTTPStatus is the code's HTTP status; that of a code which a newer agent knows,
// and we do not, is the one for failures of ours.
func (c Code) HTTPStatus() int {
	if s, ok := httpStatus[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}
