package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// Sentinel errors. Every error wraps one of them, an error of the store, or an error of
// the context.
var (
	ErrExhausted = errors.New("no address is free")
	ErrTaken     = errors.New("address is taken")
	ErrOutside   = errors.New("address is outside the subnet")
	ErrReserved  = errors.New("address is reserved")
	ErrOwnerHas  = errors.New("owner has another address")
	ErrBadBlock  = errors.New("block cannot be decoded")
)

// TakenError reports the owner of a requested address. It wraps ErrTaken.
type TakenError struct {
	Addr  netip.Addr
	Owner string
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("address %s is taken by %q", e.Addr, e.Owner)
}

// Unwrap returns ErrTaken.
func (e *TakenError) Unwrap() error { return ErrTaken }

// OwnerHasError reports the address that the owner already has. It wraps ErrOwnerHas.
type OwnerHasError struct {
	Owner string
	Addr  netip.Addr
}

func (e *OwnerHasError) Error() string {
	return fmt.Sprintf("%q already has address %s of this subnet", e.Owner, e.Addr)
}

// Unwrap returns ErrOwnerHas.
func (e *OwnerHasError) Unwrap() error { return ErrOwnerHas }

// BadBlockError reports a key of the store whose value is not a block. The value is left
// unchanged, and its addresses are not allocated. It wraps ErrBadBlock.
type BadBlockError struct {
	Key   string
	Cause error
}

func (e *BadBlockError) Error() string {
	return fmt.Sprintf("block %q cannot be decoded: %v", e.Key, e.Cause)
}

// Unwrap returns ErrBadBlock and the cause.
func (e *BadBlockError) Unwrap() []error { return []error{ErrBadBlock, e.Cause} }
