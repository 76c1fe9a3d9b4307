package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

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
