package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/snapshot"
)

// pipedSigner is the signer of a server whose program is a shell script. The
// pipe that comes with it ends when everything that the program started has.
func pipedSigner(t *testing.T, ctx context.Context, script string, timeout time.Duration) (snapshot.Signer, func() error) {
	t.Helper()
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "public")
	if err := os.WriteFile(public, key.Public().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s, err := openSigner(ctx, signingConfig{Signer: []string{"sh", "-c", script}, Public: public, Timeout: timeout}, w)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() error {
		w.Close()
		if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r)
		return err
	}
}

// TestSignerThatHangsEndsWithItsChildren: nothing that a server's signer
// started outlives the time that it had.
func TestSignerThatHangsEndsWithItsChildren(t *testing.T) {
	s, ended := pipedSigner(t, t.Context(), "sleep 300 & sleep 300", 100*time.Millisecond)
	_, err := s.Sign([]byte("message"))
	if err == nil || !strings.Contains(err.Error(), "did not sign within 100ms") {
		t.Errorf("got %v", err)
	}
	if err := ended(); err != nil {
		t.Errorf("a child of the program runs on: %v", err)
	}
}

// TestSignerEndsWithTheServer: a stopping server does not wait for a signature.
func TestSignerEndsWithTheServer(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	s, ended := pipedSigner(t, ctx, "sleep 300", time.Minute)
	stop()
	if _, err := s.Sign([]byte("message")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := ended(); err != nil {
		t.Error(err)
	}
}

// TestSignerLeavesAChildBehind: a child that holds the output open does not
// keep the server waiting, and what it might still write is no signature.
func TestSignerLeavesAChildBehind(t *testing.T) {
	s, _ := pipedSigner(t, t.Context(), "sleep 5 & head -c 64 /dev/zero", time.Minute)
	if sig, err := s.Sign([]byte("message")); err == nil {
		t.Errorf("it signed: %x", sig)
	}
}
