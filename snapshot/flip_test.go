package snapshot

import (
	"bytes"
	"slices"
	"testing"
)

// masks are what a byte is changed by: each bit alone, which includes case,
// and all of them.
var masks = []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}

// flips calls try with every variant of data that differs in one byte.
func flips(data []byte, try func(at int, mask byte, variant []byte)) {
	variant := bytes.Clone(data)
	for i := range data {
		for _, mask := range masks {
			variant[i] = data[i] ^ mask
			try(i, mask, variant)
		}
		variant[i] = data[i]
	}
}

// sealedShop is a file with exactly threshold signatures, of both algorithms.
func sealedShop(t testing.TB) (*Snapshot, Trust) {
	a, b := newKey(t, Ed25519), newKey(t, ECDSAP256)
	tr := trust(t, 2, a, b)
	s, err := signed(t, build(t, shop(t), testCommit), a, b).Verify(tr, now)
	if err != nil {
		t.Fatal(err)
	}
	return s, tr
}

func TestAnyOneByteFlippedIsRefused(t *testing.T) {
	s, tr := sealedShop(t)
	data := s.Bytes()
	flips(data, func(at int, mask byte, variant []byte) {
		_, err := Open(variant, tr, now)
		if Code(err) == "" {
			t.Fatalf("byte %d of %d, %#x changed by %#x: %v", at, len(data), data[at], mask, err)
		}
		// The way of tools that parse first ends the same.
		if d, err := Parse(variant); err == nil {
			if !bytes.Equal(d.Bytes(), variant) {
				t.Fatalf("byte %d changed by %#x: parsed, and written otherwise", at, mask)
			}
			if _, err := d.Verify(tr, now); Code(err) == "" {
				t.Fatalf("byte %d changed by %#x: verified after Parse: %v", at, mask, err)
			}
		}
	})
}

func TestAnyTruncationIsRefused(t *testing.T) {
	s, tr := sealedShop(t)
	data := s.Bytes()
	for n := range data {
		_, err := Open(data[:n], tr, now)
		if Code(err) == "" {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
		if _, err := Parse(data[:n]); Code(err) == "" {
			t.Fatalf("%d of %d bytes: parsed: %v", n, len(data), err)
		}
	}
}

func TestTrailingAndInsertedBytesAreRefused(t *testing.T) {
	s, tr := sealedShop(t)
	data := s.Bytes()
	for _, extra := range [][]byte{{0}, {'\n'}, {' '}, data, make([]byte, 4)} {
		_, err := Open(slices.Concat(data, extra), tr, now)
		wantCode(t, err, "FILE_MALFORMED")
	}
	for i := range data {
		for _, b := range []byte{0, ' ', '\n', '"', data[i]} {
			if _, err := Open(slices.Insert(bytes.Clone(data), i, b), tr, now); Code(err) == "" {
				t.Fatalf("%#x put in before byte %d: %v", b, i, err)
			}
		}
	}
}

func TestAnyOneByteOfASealFlippedIsRefused(t *testing.T) {
	s, tr := sealedShop(t)
	seal, err := s.Seal("web")
	if err != nil {
		t.Fatal(err)
	}
	check := func(seal Seal) error {
		_, err := VerifySeal(seal, tr, "web", "shop", now)
		return err
	}
	if err := check(seal); err != nil {
		t.Fatal(err)
	}
	flips(seal.Statement, func(at int, mask byte, variant []byte) {
		if err := check(Seal{Statement: variant, List: seal.List}); Code(err) == "" {
			t.Fatalf("byte %d of the statement changed by %#x: %v", at, mask, err)
		}
	})
	flips(seal.List, func(at int, mask byte, variant []byte) {
		if err := check(Seal{Statement: seal.Statement, List: variant}); Code(err) == "" {
			t.Fatalf("byte %d of the list changed by %#x: %v", at, mask, err)
		}
	})
	for n := range seal.List {
		if err := check(Seal{Statement: seal.Statement, List: seal.List[:n]}); Code(err) == "" {
			t.Fatalf("%d bytes of the list: %v", n, err)
		}
	}
	wantCode(t, check(Seal{Statement: seal.Statement, List: append(bytes.Clone(seal.List), 0)}), "SEAL_MALFORMED")
}
