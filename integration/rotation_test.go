package integration

import (
	"os"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// sealed builds the newest commit, has it signed by each key in turn, the
// first of which may declare another, and puts it where the server reads it.
func (s *shop) sealed(t *testing.T, declare string, keys ...string) {
	t.Helper()
	file := s.Dir + "/next.snapshot"
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", s.Repo.Dir, "--out", file))
	for i, key := range keys {
		args := []string{"sign", "--key", s.Dir + "/" + key, file}
		if i == 0 && declare != "" {
			args = append(args, "--declare-key", s.Dir+"/"+declare+".pub", "--declare-threshold", "1")
		}
		meshtest.Run(t, meshtest.Meshseal(t, args...))
	}
	if err := os.Rename(file, s.Dir+"/mesh.snapshot"); err != nil {
		t.Fatal(err)
	}
}

// TestKeysAreRotated: a server follows from one key to the next by a snapshot
// that both have signed, and only so, through restarts, whatever of the two is
// configured.
func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	s := fileShop(t)
	s.Start()
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", s.Dir+"/second"))
	revoked := 0
	commit := func() string {
		t.Helper()
		revoked++
		return s.Repo.Replace("revoke one more", "workloads/client.yaml", "revoked: [", "revoked: [sha256:"+digest(strings.Repeat("x", revoked))+", ")
	}
	stays := func(what, why, inForce string) {
		t.Helper()
		s.Server.Eventually(what+" is refused", func() error {
			status, err := s.Server.Status()
			return errorsOr(err, strings.Contains(status.Source.Refused, why), "%q", status.Source.Refused)
		})
		if status, err := s.Server.Status(); err != nil || status.Snapshot.Commit != inForce {
			t.Errorf("%s: %v is in force, %v", what, status.Snapshot, err)
		}
	}
	restart := func(inForce string) {
		t.Helper()
		if err := s.Server.Stop(); err != nil {
			t.Fatal(err)
		}
		s.Start()
		if status, err := s.Server.Status(); err != nil || status.Snapshot.Commit != inForce {
			t.Errorf("after a restart: %v, %v", status, err)
		}
	}

	first := commit()
	s.sealed(t, "", "key")
	s.WaitInForce(first)
	second := commit()
	s.sealed(t, "second", "key")
	stays("a change by the old key only", "SIGNATURE_ROTATION", first)
	s.sealed(t, "second", "second")
	stays("a change by the new key only", "SIGNATURE_UNTRUSTED", first)
	s.sealed(t, "second", "key", "second")
	s.WaitInForce(second)

	third := commit()
	s.sealed(t, "", "key")
	stays("the old key", "SIGNATURE_UNTRUSTED", second)
	restart(second)
	stays("the old key after a restart", "SIGNATURE_UNTRUSTED", second)
	s.sealed(t, "", "second")
	s.WaitInForce(third)

	s.Configure("keys: ["+s.Dir+"/key.pub]", "keys: ["+s.Dir+"/second.pub]")
	restart(third)
	fourth := commit()
	s.sealed(t, "", "second")
	s.WaitInForce(fourth)

	// What the server remembers is under its lock.
	if out, err := meshtest.Meshseal(t, "recover", "--state", s.Dir+"/file-state").CombinedOutput(); err == nil || !strings.Contains(string(out), "another process") {
		t.Errorf("%s, %v", out, err)
	}
}
