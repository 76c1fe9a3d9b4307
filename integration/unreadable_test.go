package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnreadableObjectIsReadAgain: a commit whose build failed because the disk
// or the process could not, and not because of what it says, is built as soon as
// it can be.
func TestUnreadableObjectIsReadAgain(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.Repo.Git("checkout", "-q", "-b", "next")
	commit := s.Repo.Replace("meanwhile", "meshseal.yaml", "grace: 5s", "grace: 6s")
	blob := strings.TrimSpace(s.Repo.Git("rev-parse", "next:meshseal.yaml"))
	object := filepath.Join(s.Repo.Dir, ".git", "objects", blob[:2], blob[2:])
	if err := errors.Join(os.Rename(object, object+".kept"), os.Mkdir(object, 0o700)); err != nil {
		t.Fatal(err)
	}
	s.Repo.Git("update-ref", "refs/heads/main", commit)
	s.Server.Eventually("the commit is refused", func() error {
		status, err := s.Server.Status()
		return errors.Join(err, wantErr(strings.Contains(status.Source.Refused, "is a directory"), "refused: %q", status.Source.Refused))
	})
	if err := errors.Join(os.Remove(object), os.Rename(object+".kept", object)); err != nil {
		t.Fatal(err)
	}
	s.WaitInForce(commit)
}
