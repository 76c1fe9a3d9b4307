package snapshot

import (
	"bytes"
	"slices"
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
	f.Add(build(f, attested(f), testCommit).Bytes())
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

// The leaves alone, under whatever root they have: what a fuzzer changes in a
// file it hardly ever hashes again.
func FuzzLeaf(f *testing.F) {
	good := take(f, build(f, attested(f), testCommit).Bytes())
	for i, leaf := range good.leaves {
		f.Add(i, leaf)
	}
	f.Fuzz(func(t *testing.T, at int, leaf []byte) {
		if at < 0 || at >= len(good.leaves) {
			return
		}
		leaves := slices.Clone(good.leaves)
		leaves[at] = leaf
		var l leafReader
		for _, b := range leaves {
			if err := l.add(b); err != nil {
				return
			}
		}
		c, err := l.content()
		if err != nil {
			return
		}
		c.Resources = map[Digest][]byte{}
		for _, data := range good.resources {
			c.Resources[image(string(data))] = data
		}
		if checkContent(c) != nil {
			return
		}
		again, _ := encodeLeaves(c)
		var second leafReader
		for _, b := range again {
			if err := second.add(b); err != nil {
				t.Fatalf("written, and not read again: %v", err)
			}
		}
		if _, err := second.content(); err != nil {
			t.Fatalf("written, and not read again: %v", err)
		}
		if third, _ := encodeLeaves(second.c); !slices.EqualFunc(again, third, bytes.Equal) {
			t.Fatal("the content does not keep its form")
		}
	})
}
