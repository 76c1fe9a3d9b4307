package mesh

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/policies"
	"meshseal/snapshot"
)

// testCommit is a commit as gitsource would give it.
func testCommit() snapshot.Commit {
	return snapshot.Commit{
		Hash: strings.Repeat("a1", 20), Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Sequence: 7,
	}
}

func TestInitBuilds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := Init(dir); err != nil {
		t.Fatal(err)
	}
	draft, report, err := Build(os.DirFS(dir), testCommit())
	if err != nil {
		t.Fatal(err)
	}
	if draft.Root().IsZero() {
		t.Error("the root is zero")
	}
	var files []policies.File
	for _, f := range draft.Policies() {
		files = append(files, policies.File{Path: f.Path, Data: f.Data})
	}
	tests, err := policies.Test(t.Context(), files, policies.TestOptions{})
	if err != nil || len(tests.Results) == 0 {
		t.Fatalf("%d tests of the policy, %v", len(tests.Results), err)
	}
	for _, r := range tests.Results {
		if !r.Pass {
			t.Errorf("%s:%d: %s does not pass", r.File, r.Line, r.Name)
		}
	}
	for _, n := range report.Notices {
		if n.File == "" || n.Code == "" || n.Text == "" {
			t.Errorf("incomplete notice: %+v", n)
		}
	}
}

func TestInitRefusesAFolderInUse(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir); err != nil {
		t.Fatalf("a folder with only .git: %v", err)
	}
	err := Init(dir)
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Fatalf("got %v, want a refusal", err)
	}
}
