package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The encoding below the JSON of the statement: unsigned integers in network
// byte order, and byte strings after their length in four bytes. Each value
// has one encoding, so what decodes to the end and stands in the right order
// is what the encoder writes.

// writer appends values to b.
type writer struct{ b []byte }

func (w *writer) u8(v uint8)      { w.b = append(w.b, v) }
func (w *writer) u32(v uint32)    { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)    { w.b = binary.BigEndian.AppendUint64(w.b, v) }
func (w *writer) digest(d Digest) { w.b = append(w.b, d[:]...) }
func (w *writer) count(n int)     { w.u32(uint32(n)) }

func (w *writer) field(v []byte) {
	w.count(len(v))
	w.b = append(w.b, v...)
}

func (w *writer) str(v string) {
	w.count(len(v))
	w.b = append(w.b, v...)
}

// sizes of encoded values, in bytes.
const (
	u8Size     = 1
	u32Size    = 4
	u64Size    = 8
	digestSize = len(Digest{})
)

var errShort = errors.New("it ends too early")

// reader takes values from the front of b. The first error sticks, and every
// value after it is zero. What it returns aliases b.
type reader struct {
	b   []byte
	err error
}

// take returns the next n bytes. It allocates nothing, so a length that lies
// costs nothing.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.fail(fmt.Errorf("%w: %d bytes are announced and %d are left", errShort, n, len(r.b)))
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

func (r *reader) u8() uint8 {
	if v := r.take(u8Size); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(u32Size); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(u64Size); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) digest() (d Digest) {
	copy(d[:], r.take(digestSize))
	return d
}

func (r *reader) field() []byte { return r.take(int(r.u32())) }

func (r *reader) str() string { return string(r.field()) }

// count reads how many elements follow, each at least size bytes long, and
// refuses more than the bytes that are left can hold. What is made for the
// elements is thereby bounded by the size of the input.
func (r *reader) count(size int) int {
	n := int(r.u32())
	if r.err == nil && (n < 0 || n > len(r.b)/size) {
		r.fail(fmt.Errorf("%w: %d elements are announced and %d bytes are left", errShort, n, len(r.b)))
		return 0
	}
	return n
}

// each reads a count of elements, each at least size bytes long, and calls
// element for every one of them until something fails.
func (r *reader) each(size int, element func()) {
	for n := r.count(size); n > 0 && r.err == nil; n-- {
		element()
	}
}

// done returns the first error, or one for bytes that are left over.
func (r *reader) done() error {
	if r.err == nil && len(r.b) > 0 {
		return fmt.Errorf("%d bytes are left over at the end", len(r.b))
	}
	return r.err
}
