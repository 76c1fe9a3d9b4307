package snapshot

import (
	"bytes"
	"testing"
)

// Whatever is accepted is written again as it was, and nothing panics. The
// seeds are made at run time: an unsigned and a signed file.
func FuzzParse(f *testing.F) {
	k := fixedKey(f, "k")
	d := build(f, shop(f), testCommit)
	tr := trust(f, 1, k)
	f.Add(d.Bytes())
	f.Add(signed(f, d, k).Bytes())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			if Code(err) == "" {
				t.Fatalf("refused without a code: %v", err)
			}
			if _, err := Open(data, tr, now); err == nil {
				t.Fatal("opened what does not parse")
			}
			return
		}
		if !bytes.Equal(d.Bytes(), data) {
			t.Fatal("accepted, and written otherwise")
		}
		if s, err := Open(data, tr, now); err == nil && s.Root() != d.Root() {
			t.Fatal("opened as another")
		}
	})
}

func FuzzParseStatement(f *testing.F) {
	d := build(f, shop(f), testCommit)
	f.Add(d.envelope.payload)
	f.Add(signed(f, d, newKey(f, Ed25519)).envelope.payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStatement(data)
		if err != nil {
			if Code(err) == "" {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatal("accepted, and written otherwise")
		}
	})
}

func FuzzParseEnvelope(f *testing.F) {
	d := build(f, shop(f), testCommit)
	f.Add(d.envelope.raw)
	f.Add(signed(f, d, newKey(f, Ed25519), newKey(f, ECDSAP256)).envelope.raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := parseEnvelope(data); err == nil && !bytes.Equal(e.raw, data) {
			t.Fatal("accepted, and written otherwise")
		}
	})
}

func FuzzVerifySeal(f *testing.F) {
	s, tr := sealedShop(f)
	seal, err := s.Seal("web")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal.List)
	f.Fuzz(func(t *testing.T, list []byte) {
		_, err := VerifySeal(Seal{Statement: seal.Statement, List: list}, tr, "web", "shop", now)
		if (err == nil) != bytes.Equal(list, seal.List) {
			t.Fatalf("another list for the same root: %v", err)
		}
	})
}
