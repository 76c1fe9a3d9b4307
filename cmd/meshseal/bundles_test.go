package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestBundleFilesRotate: a bundle is rotated by writing its file, and what is
// no bundle changes nothing.
func TestBundleFilesRotate(t *testing.T) {
	before, after := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test")
	file := filepath.Join(t.TempDir(), "shop.pem")
	write := func(data []byte) {
		t.Helper()
		if err := writeFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(before.BundlePEM())
	b, err := openBundles(map[string]string{"shop.test": file}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	trusts := func(ca *identitytest.CA) bool {
		_, err := identity.VerifySVID(identitytest.Chain(t, ca.SVID(t, "spiffe://shop.test/web")), b.current.Load(), time.Now())
		return err == nil
	}
	first := b.current.Load()
	b.read()
	if b.current.Load() != first {
		t.Error("the bundles changed, and the file did not")
	}
	for name, step := range map[string]func(){
		"not a bundle": func() { write([]byte("no PEM")) },
		"empty":        func() { write(nil) },
		"gone":         func() { _ = os.Remove(file) },
	} {
		step()
		if b.read(); !trusts(before) {
			t.Errorf("%s: the bundle from before is no longer trusted", name)
		}
	}
	write(after.BundlePEM())
	if b.read(); trusts(before) || !trusts(after) {
		t.Errorf("after the rotation: old trusted %v, new trusted %v", trusts(before), trusts(after))
	}
	if _, err := openBundles(map[string]string{"Shop.test": file}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a trust domain in upper case was accepted")
	}
}

// TestJWTBundleFilesRotate: the keys of JWT-SVIDs stand in the same file as the
// roots, and are rotated with it.
func TestJWTBundleFilesRotate(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	file := filepath.Join(t.TempDir(), "shop.json")
	write := func(keyIDs ...string) {
		t.Helper()
		b := spiffebundle.FromX509Authorities(ca.TrustDomain(), ca.Bundle())
		for _, id := range keyIDs {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err == nil {
				err = b.AddJWTAuthority(id, key.Public())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		data, err := b.Marshal()
		if err == nil {
			err = writeFile(file, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	s, err := openIdentity(t.Context(), identityConfig{TrustBundles: map[string]string{"shop.test": file}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	has := func(id string) bool {
		_, ok := s.jwtBundles().Lookup(ca.TrustDomain(), id)
		return ok
	}
	roots := s.bundles()
	if !has("one") {
		t.Error("the key is not there")
	}
	write("two")
	if s.files.read(); has("one") || !has("two") || s.bundles() != roots {
		t.Errorf("after the rotation: old %v, new %v; the roots changed: %v", has("one"), has("two"), s.bundles() != roots)
	}
	if err := writeFile(file, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.files.read(); !has("two") {
		t.Error("a file that is no bundle took the key away")
	}
	write()
	if s.files.read(); has("two") {
		t.Error("a key that was taken away is still there")
	}
}

// TestIntermediateFilesRotate: the same for intermediates.
func TestIntermediateFilesRotate(t *testing.T) {
	root := identitytest.NewCA(t, "shop.test")
	before, after := root.Intermediate(t), root.Intermediate(t)
	bundles := identitytest.Bundles(t, root)
	file := filepath.Join(t.TempDir(), "nested.pem")
	write := func(data []byte) {
		t.Helper()
		if err := writeFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	block := func(ca *identitytest.CA) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})
	}
	write(block(before))
	f, err := openIntermediates([]string{file}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	helps := func(ca *identitytest.CA) bool {
		leaf := identitytest.Chain(t, ca.SVID(t, "spiffe://shop.test/web"))[:1]
		_, err := identity.VerifySVIDWith(f.known, leaf, bundles, time.Now())
		return err == nil
	}
	for name, data := range map[string][]byte{"empty": nil, "no PEM": []byte("no PEM"), "a leaf": []byte(identitytest.PEM(root.SVID(t, "spiffe://shop.test/web")))} {
		write(data)
		if f.read(); !helps(before) {
			t.Errorf("%s: what was there before is gone", name)
		}
	}
	write(block(after))
	if f.read(); helps(before) || !helps(after) {
		t.Errorf("after the rotation: old %v, new %v", helps(before), helps(after))
	}
	if _, err := openIntermediates([]string{filepath.Join(t.TempDir(), "none")}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not there was taken")
	}
	nested := root.Intermediate(t)
	if teach(f.known, nested.SVID(t, "spiffe://shop.test/meshseal"), bundles, time.Now()); !helps(nested) {
		t.Error("the own certificate's intermediate was not learned")
	}
}

// TestListenSocket: a socket is for its owner alone from the first moment on,
// takes the place of one that a dead process left, and of nothing else.
func TestListenSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenSocket(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if second, err := listenSocket(path, nil); err == nil {
		second.Close()
		t.Error("a socket on which somebody answers was taken over")
	}
	l.Close()
	if err := os.WriteFile(path, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listenSocket(path, nil); err == nil {
		l.Close()
		t.Error("a file was removed for a socket")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	self := os.Getuid()
	if l, err = listenSocket(path, &self); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
