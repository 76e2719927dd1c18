package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is the kind of an Error. Codes are stable and are sent over the wire.
type Code string

// Error codes. Each has one HTTP status, see Code.HTTPStatus.
const (
	CodeInvalid     Code = "invalid"     // the request is wrong: correct it before trying again
	CodeNotFound    Code = "not_found"   // the named object does not exist
	CodeConflict    Code = "conflict"    // the name, address or subnet is taken
	CodeInUse       Code = "in_use"      // others still use the object, so it cannot be removed
	CodeExhausted   Code = "exhausted"   // nothing is free
	CodeUnavailable Code = "unavailable" // a required service (Open vSwitch, Consul) is unreachable now
	CodeForbidden   Code = "forbidden"   // the caller has no permission
	CodeInternal    Code = "internal"
)

// Error is a failure that a caller can act on. Message is one sentence that names the
// object and the remedy. Cause is for --debug and logs.
type Error struct {
	Code    Code
	Message string
	Cause   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf returns an Error with a formatted message. The operand of %w becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// CodeOf returns the code of the first Error in the chain of err, or CodeInternal.
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

// HTTPStatus returns the HTTP status of the code. It returns 500 for a code that only a
// newer agent knows.
func (c Code) HTTPStatus() int {
	if s, ok := httpStatus[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}
