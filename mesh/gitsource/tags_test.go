package gitsource

import (
	"path/filepath"
	"testing"

	"meshseal/snapshot"
)

// A tag that was adopted does not move, not even to a descendant.
func TestMovedTag(t *testing.T) {
	dir := emptyRepository(t)
	commit(t, dir, "one")
	git(t, dir, "tag", "-a", "-m", "x", "v1")
	git(t, dir, "tag", "light")
	file := TagFile(filepath.Join(t.TempDir(), "tag"))
	if err := file.Check(mustOpen(t, dir, "v1")); err != nil {
		t.Errorf("nothing is remembered yet: %v", err)
	}
	for _, rev := range []string{"v1", "main", "v1"} {
		if err := file.Keep(mustOpen(t, dir, rev)); err != nil {
			t.Fatal(err)
		}
		if err := file.Check(mustOpen(t, dir, rev)); err != nil {
			t.Errorf("%s: %v", rev, err)
		}
	}
	git(t, dir, "tag", "-f", "-a", "-m", "signed anew", "v1")
	wantIs(t, file.Check(mustOpen(t, dir, "v1")), snapshot.ErrTagMoved, "make a tag with another name")
	commit(t, dir, "two")
	git(t, dir, "tag", "-f", "v1")
	wantIs(t, file.Check(mustOpen(t, dir, "refs/tags/v1")), snapshot.ErrTagMoved)
	if err := file.Check(mustOpen(t, dir, "light")); err != nil {
		t.Errorf("another tag: %v", err)
	}
	write(t, filepath.Dir(string(file)), "tag", "nonsense")
	wantError(t, file.Check(mustOpen(t, dir, "v1")), "damaged")
}

func TestSub(t *testing.T) {
	dir := subRepository(t)
	top := mustOpen(t, dir, "main")
	below, err := top.Sub("mesh")
	if err != nil || below.tree != mustOpen(t, filepath.Join(dir, "mesh"), "main").tree {
		t.Errorf("another tree than that of the folder, %v", err)
	}
	if deeper, err := below.Sub("policies"); err != nil || deeper.layout.sub != "mesh/policies" {
		t.Errorf("%v, %v", deeper, err)
	}
	for folder, says := range map[string]string{"../x": "give a path", "/mesh": "give a path", "": "give a path", "absent": "file does not exist", "main.go": "not a folder"} {
		_, err := top.Sub(folder)
		wantError(t, err, says)
	}
}
