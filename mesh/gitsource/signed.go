package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"meshseal/snapshot"
)

// signed is an object taken apart: what was signed, and the signature over it.
type signed struct {
	payload   []byte
	signature []byte // armored; empty: there is none
	// target is the tree of a commit, the object of a tag.
	target plumbing.Hash
	name   string // of a tag
}

// The first lines of the signatures that git writes.
const (
	beginSSH     = "-----BEGIN SSH SIGNATURE-----"
	beginOpenPGP = "-----BEGIN PGP SIGNATURE-----"
)

// begins are the lines by which git knows where a signature begins:
// https://git-scm.com/docs/gitformat-signature
var begins = []string{beginSSH, beginOpenPGP, "-----BEGIN PGP MESSAGE-----", "-----BEGIN SIGNED MESSAGE-----"}

// field is one header of a commit or a tag; lines after its first begin with a
// space there, and have none here.
type field struct {
	key, value string
	raw        []byte
}

// fields takes the headers from an object. What git and this program could
// read differently is refused: a header without a value, a continued line that
// continues nothing, a NUL byte.
func fields(data []byte) (all []field, message []byte, err error) {
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, nil, errors.New("it has a NUL byte")
	}
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return nil, nil, errors.New("its last header does not end")
		}
		line := data[:end+1]
		if len(line) == 1 {
			return all, data, nil
		}
		data = data[end+1:]
		text := string(line[:end])
		if rest, ok := strings.CutPrefix(text, " "); ok {
			if len(all) == 0 {
				return nil, nil, errors.New("it begins with a continued line")
			}
			last := &all[len(all)-1]
			last.value += "\n" + rest
			last.raw = append(last.raw, line...)
			continue
		}
		key, value, ok := strings.Cut(text, " ")
		if !ok || key == "" {
			return nil, nil, fmt.Errorf("its header %.80q has no value", text)
		}
		all = append(all, field{key: key, value: value, raw: bytes.Clone(line)})
	}
	return all, nil, nil
}

// order holds that the first headers are these, each once, and that no header
// but those that git itself repeats stands twice.
func order(all []field, want ...string) error {
	seen := map[string]bool{}
	i := 0
	for _, f := range all {
		if f.key == "gpgsig-sha256" {
			return errors.New("it has a gpgsig-sha256 header, a signature for another kind of object name")
		}
		if f.key == "parent" && len(want) > 0 && want[0] == "tree" {
			if i != 1 {
				return errors.New("a parent header stands at the wrong place")
			}
			continue
		}
		if f.key != "mergetag" && seen[f.key] {
			return fmt.Errorf("its header %.40q stands twice", f.key)
		}
		seen[f.key] = true
		if i < len(want) && f.key != want[i] {
			return fmt.Errorf("its header %.40q stands where %q belongs", f.key, want[i])
		}
		i++
	}
	if i < len(want) {
		return fmt.Errorf("it has no header %q", want[i])
	}
	return nil
}

// parseCommit takes a commit apart. What is signed is the object without its
// gpgsig header.
func parseCommit(data []byte) (signed, error) {
	all, message, err := fields(data)
	if err == nil {
		err = order(all, "tree", "author", "committer")
	}
	if err != nil {
		return signed{}, fmt.Errorf("%w: %w", snapshot.ErrCommitSignature, err)
	}
	s := signed{}
	if s.target, err = fullHash(all[0].value); err != nil {
		return signed{}, err
	}
	for _, f := range all {
		if f.key == "gpgsig" {
			s.signature = []byte(f.value)
			continue
		}
		s.payload = append(s.payload, f.raw...)
	}
	s.payload = append(s.payload, message...)
	return s, nil
}

// parseTag takes an annotated tag apart. Its signature stands at the end of
// the message, and what is signed is all before it.
func parseTag(data []byte) (signed, error) {
	all, message, err := fields(data)
	if err == nil {
		err = order(all, "object", "type", "tag", "tagger")
	}
	if err == nil && slices.ContainsFunc(all, func(f field) bool { return f.key == "gpgsig" }) {
		err = errors.New("it has a gpgsig header")
	}
	if err == nil && all[1].value != "commit" {
		err = fmt.Errorf("it names a %.20q; sign a tag of the commit itself", all[1].value)
	}
	if err != nil {
		return signed{}, fmt.Errorf("%w: %w", snapshot.ErrCommitSignature, err)
	}
	s := signed{payload: data, name: all[2].value}
	if s.target, err = fullHash(all[0].value); err != nil {
		return signed{}, err
	}
	at := len(data) - len(message)
	for line := range bytes.Lines(message) {
		if slices.ContainsFunc(begins, func(b string) bool { return bytes.HasPrefix(line, []byte(b)) }) {
			if s.signature != nil {
				return signed{}, fmt.Errorf("%w: it has more than one signature", snapshot.ErrCommitSignature)
			}
			s.payload, s.signature = data[:at], data[at:]
		}
		at += len(line)
	}
	return s, nil
}

func fullHash(text string) (plumbing.Hash, error) {
	if !plumbing.IsHash(text) || strings.ToLower(text) != text {
		return plumbing.ZeroHash, fmt.Errorf("%w: %.80q is not the name of an object", snapshot.ErrCommitSignature, text)
	}
	return plumbing.NewHash(text), nil
}
