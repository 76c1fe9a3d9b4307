package gitsource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"meshseal/snapshot"
)

// TagFile remembers in a file which object a tag pointed to when what it names
// was adopted. A tag does not move: what has another object under the same name
// is refused, also where the object is signed or its commit is a descendant.
type TagFile string

// Check returns snapshot.ErrTagMoved where s was opened by the remembered tag
// and the tag points to another object now.
func (f TagFile) Check(s *Source) error {
	ref, object := s.Tag()
	if ref == "" {
		return nil
	}
	at, before, err := f.read()
	if err != nil {
		return err
	}
	if at == ref && before != object {
		return fmt.Errorf("%w: %s was %s and is %s; make a tag with another name", snapshot.ErrTagMoved, ref, before, object)
	}
	return nil
}

// Keep remembers the tag that s was opened by, for good; another source than a
// tag changes nothing.
func (f TagFile) Keep(s *Source) error {
	ref, object := s.Tag()
	if ref == "" {
		return nil
	}
	at, before, err := f.read()
	if err != nil || at == ref && before == object {
		return err
	}
	return writeDurably(string(f), fmt.Appendf(nil, "%s %s\n", object, ref))
}

func (f TagFile) read() (ref, object string, err error) {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	object, ref, ok := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	if !ok || !isCommitHash(object) {
		return "", "", fmt.Errorf("%s is damaged: it remembers which object a tag pointed to; restore it", string(f))
	}
	return ref, object, nil
}
