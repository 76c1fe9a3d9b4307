//go:build cgo

package main

// #include "abi.h"
import "C"

import (
	"fmt"
	"unsafe"

	"meshseal/guard"
)

// maxBytes is the most bytes of one buffer, far above what a guard accepts: a
// length above it is a mistake about the ABI.
const maxBytes = 1 << 31

// view is Envoy's own memory, valid until the call returns.
func view(b C.abi_buffer) ([]byte, error) {
	switch {
	case b.length == 0:
		return nil, nil
	case b.ptr == nil || b.length > maxBytes:
		return nil, fmt.Errorf("meshseal guard: %s: a buffer of %d bytes at %p", guard.CodeInternal, uint64(b.length), b.ptr)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(b.ptr)), int(b.length)), nil
}

// list is an array of Envoy's.
func list[T any](first *T, n C.size_t) ([]T, error) {
	switch {
	case n == 0:
		return nil, nil
	case first == nil || n > maxBytes/C.size_t(unsafe.Sizeof(*first)):
		return nil, fmt.Errorf("meshseal guard: %s: an array of %d at %p", guard.CodeInternal, uint64(n), first)
	}
	return unsafe.Slice(first, int(n)), nil
}

func resources(first *C.abi_resource, n C.size_t) ([]guard.Resource, error) {
	all, err := list(first, n)
	if err != nil {
		return nil, err
	}
	out := make([]guard.Resource, len(all))
	for i, r := range all {
		name, err := view(r.name)
		if err != nil {
			return nil, err
		}
		body, err := view(r.resource)
		if err != nil {
			return nil, err
		}
		out[i] = guard.Resource{
			Name: string(name), Aliases: int(min(r.aliases_count, maxBytes)),
			HasTTL: bool(r.has_ttl), HasBody: bool(r.has_resource), Body: body,
		}
	}
	return out, nil
}

func names(first *C.abi_buffer, n C.size_t) ([]string, error) {
	all, err := list(first, n)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(all))
	for i, b := range all {
		name, err := view(b)
		if err != nil {
			return nil, err
		}
		out[i] = string(name)
	}
	return out, nil
}
