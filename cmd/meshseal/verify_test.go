package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
)

// TestRebuildDiffers: signatures by the right key do not make up for content
// that is not what the commit builds to.
func TestRebuildDiffers(t *testing.T) {
	repo := filepath.Join(t.TempDir(), "mesh")
	if err := mesh.Init(repo); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.test", "commit", "-qm", "one"}} {
		cmd := exec.Command("git", append([]string{"-C", repo}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	source, err := gitsource.Open(repo, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(repo, "policies", "authz.rego")
	for _, c := range []struct {
		name, code string
		commit     func(*snapshot.Commit)
		policy     string
	}{
		{"the same", "OK", nil, ""},
		{"another policy", "REBUILD_DIFFERS", nil, "package envoy.authz\n\ndefault allow := true\n"},
		{"another sequence", "REBUILD_DIFFERS", func(c *snapshot.Commit) { c.Sequence = 1 << 20 }, ""},
		{"a commit that is not there", "REBUILD_FAILED", func(c *snapshot.Commit) { c.Hash = "0123456789012345678901234567890123456789" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys, commit := source.FS(), source.Commit()
			if c.policy != "" {
				if err := os.WriteFile(policy, []byte(c.policy), 0o600); err != nil {
					t.Fatal(err)
				}
				fsys = os.DirFS(repo)
			}
			if c.commit != nil {
				c.commit(&commit)
			}
			draft, _, err := mesh.Build(fsys, commit)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := draft.Sign(key, snapshot.SignOptions{Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			if v := verify(signed.Bytes(), trust, ""); !v.Verified {
				t.Fatalf("by its signature alone: %+v", v)
			}
			v := verify(signed.Bytes(), trust, repo)
			if v.Code != c.code || v.Verified != (c.code == "OK") || v.Rebuilt != v.Verified {
				t.Errorf("%+v, wanted %s", v, c.code)
			}
		})
	}
}
