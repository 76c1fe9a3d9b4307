package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// maxSigners bounds a list of signers, bytes.
const maxSigners = 4 << 20

// gitNamespace is what git signs for: the namespace of an SSH signature keeps
// one that was made for something else from counting.
const gitNamespace = "git"

// allowedSigner is one line of an allowed-signers file.
type allowedSigner struct {
	principals string
	key        ssh.PublicKey
	namespaces string // a list of patterns; empty: every one
	after      time.Time
	before     time.Time
}

// parseAllowedSigners reads the format of the section ALLOWED SIGNERS of
// ssh-keygen(1). What it does not support is refused by name, since a line
// that is not understood could have been a restriction.
func parseAllowedSigners(text []byte) ([]allowedSigner, error) {
	if len(text) > maxSigners {
		return nil, fmt.Errorf("%d bytes; at most %d are read", len(text), maxSigners)
	}
	var all []allowedSigner
	for n, line := range bytes.Split(text, []byte("\n")) {
		entry := strings.TrimSpace(string(line))
		if entry == "" || strings.HasPrefix(entry, "#") {
			continue
		}
		s, err := parseAllowedSigner(entry)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("the file lists nobody")
	}
	return all, nil
}

// parseAllowedSigner reads "principals [options] keytype base64 [comment]".
func parseAllowedSigner(line string) (allowedSigner, error) {
	if strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
		return allowedSigner{}, errors.New("a control character")
	}
	principals, rest, err := word(line)
	if err != nil {
		return allowedSigner{}, err
	}
	s := allowedSigner{principals: strings.Trim(principals, `"`)}
	// What comes next is a type of key, or options: golang.org/x/crypto reads
	// both as an authorized key.
	key, _, options, trailing, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil || len(trailing) > 0 {
		return allowedSigner{}, fmt.Errorf("not a public key behind the principals %.80q", s.principals)
	}
	s.key = key
	for _, o := range options {
		if err := s.option(o); err != nil {
			return allowedSigner{}, err
		}
	}
	return s, checkSSHKey(key)
}

// word is the first word of a line; quotes keep spaces together.
func word(line string) (first, rest string, err error) {
	quoted := false
	for i, r := range line {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ' ' || r == '\t'):
			return line[:i], strings.TrimLeft(line[i:], " \t"), nil
		}
	}
	return "", "", errors.New("principals, a type of key and a key are needed")
}

func (s *allowedSigner) option(text string) error {
	name, value, has := strings.Cut(text, "=")
	value, quoted := unquote(value)
	name = strings.ToLower(name)
	switch {
	case name == "cert-authority" && !has:
		return errors.New("cert-authority is not supported; list the keys themselves")
	case name == "namespaces" && quoted && value != "" && s.namespaces == "":
		s.namespaces = value
		return nil
	case name == "valid-after" && quoted && s.after.IsZero():
		return moment(&s.after, name, value)
	case name == "valid-before" && quoted && s.before.IsZero():
		return moment(&s.before, name, value)
	}
	return fmt.Errorf(`the option %.80q; known are namespaces="…", valid-after="…" and valid-before="…", each once`, text)
}

func unquote(text string) (string, bool) {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return "", false
	}
	return text[1 : len(text)-1], true
}

// moment reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, each with a Z. Without
// it ssh-keygen means the zone of the machine, which would make the same list
// mean different things on different servers.
func moment(into *time.Time, name, text string) error {
	for _, layout := range []string{"20060102Z", "200601021504Z", "20060102150405Z"} {
		if t, err := time.Parse(layout, text); err == nil && len(text) == len(layout) {
			*into = t
			return nil
		}
	}
	return fmt.Errorf(`%s=%.40q: write it in UTC, with a Z at its end: YYYYMMDDZ or YYYYMMDDHHMM[SS]Z`, name, text)
}

// validFor says why the line does not let its key sign commits now; nil if it
// does.
func (s *allowedSigner) validFor(now time.Time) error {
	switch {
	case s.namespaces != "" && !matches(s.namespaces, gitNamespace):
		return fmt.Errorf("its line is for the namespaces %q and not for %q", s.namespaces, gitNamespace)
	case !s.after.IsZero() && now.Before(s.after):
		return fmt.Errorf("its line is valid after %s", s.after.Format(time.RFC3339))
	case !s.before.IsZero() && !now.Before(s.before):
		return fmt.Errorf("its line was valid before %s", s.before.Format(time.RFC3339))
	}
	return nil
}

// matches holds text against a list of patterns, PATTERNS of ssh_config(5): *
// and ? stand for anything, and one that begins with ! excludes.
func matches(patterns, text string) bool {
	found := false
	for p := range strings.SplitSeq(patterns, ",") {
		pattern, not := strings.CutPrefix(strings.TrimSpace(p), "!")
		if strings.ContainsAny(pattern, `[\/`) {
			continue // no such thing in these patterns; path.Match knows it
		}
		if ok, err := path.Match(pattern, text); err != nil || !ok {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}
