package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"meshseal/identity"
)

// Identifiers of the statement. in-toto Statement v1:
// https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "urn:meshseal:snapshot:v1"
	PayloadType   = "application/vnd.in-toto+json"
)

// MaxSequence is the highest sequence of a statement: the largest integer that
// every JSON implementation reads exactly.
const MaxSequence = 1<<53 - 1

// maxStatement bounds the JSON of a statement, in bytes: every text at its
// longest needs a third of it, MaxKeys of the longest kind of key a half.
const maxStatement = 8 << 10

// Commit is the commit of a mesh repository that a snapshot was built from.
type Commit struct {
	// Repository is the repository's own name for itself, from meshseal.yaml.
	Repository string
	// Hash is the commit's object name, 40 or 64 lower-case hexadecimal digits.
	Hash string
	// Time is the commit's committer time; whole seconds count.
	Time time.Time
	// Sequence is the number of the commit's ancestors, itself included.
	Sequence uint64
}

// Statement is the sentence about a snapshot that is signed. Times are UTC in
// whole seconds.
type Statement struct {
	Root       Digest
	Format     string
	Mesh       string
	Repository string
	Commit     string
	CommitTime time.Time
	Sequence   uint64
	TreeSize   uint64
	// Previous is the root of the snapshot that this one follows, where the
	// signer knew it.
	Previous Digest
	// Issued and Expires are zero as long as nobody has signed.
	Issued  time.Time
	Expires time.Time // exclusive
	// Keys is the set of keys that the signers declare; zero if they declare
	// none, which changes nothing. Whoever adopts a statement that declares
	// other keys than it trusts trusts these from then on; both sets have
	// signed it.
	Keys Trust
}

type statementJSON struct {
	Type          string        `json:"_type"`
	Subject       []subjectJSON `json:"subject"`
	PredicateType string        `json:"predicateType"`
	Predicate     predicateJSON `json:"predicate"`
}

type subjectJSON struct {
	Name   string     `json:"name"`
	Digest digestJSON `json:"digest"`
}

type digestJSON struct {
	SHA256 string `json:"sha256"`
}

type predicateJSON struct {
	Format     string     `json:"format"`
	Mesh       string     `json:"mesh"`
	Repository string     `json:"repository"`
	Commit     string     `json:"commit"`
	CommitTime string     `json:"commitTime"`
	Sequence   uint64     `json:"sequence"`
	TreeSize   uint64     `json:"treeSize"`
	Previous   string     `json:"previous,omitempty"`
	Issued     string     `json:"issued,omitempty"`
	Expires    string     `json:"expires,omitempty"`
	Keys       *trustJSON `json:"keys,omitempty"`
}

// encode returns the one JSON text of the statement.
func (s Statement) encode() ([]byte, error) {
	p := predicateJSON{
		Format:     s.Format,
		Mesh:       s.Mesh,
		Repository: s.Repository,
		Commit:     s.Commit,
		CommitTime: formatTime(s.CommitTime),
		Sequence:   s.Sequence,
		TreeSize:   s.TreeSize,
	}
	if !s.Previous.IsZero() {
		p.Previous = s.Previous.String()
	}
	if s.timed() {
		p.Issued, p.Expires = formatTime(s.Issued), formatTime(s.Expires)
	}
	p.Keys = s.Keys.json()
	return encodeJSON(statementJSON{
		Type:          StatementType,
		Subject:       []subjectJSON{{Name: s.Mesh, Digest: digestJSON{SHA256: s.Root.Hex()}}},
		PredicateType: PredicateType,
		Predicate:     p,
	})
}

// timed reports whether the statement carries its time of issue and expiry.
func (s Statement) timed() bool { return !s.Issued.IsZero() || !s.Expires.IsZero() }

// parseStatement accepts exactly what encode writes of a valid statement.
func parseStatement(payload []byte) (Statement, error) {
	if len(payload) > maxStatement {
		return Statement{}, fmt.Errorf("%w: %d bytes, at most %d", ErrStatement, len(payload), maxStatement)
	}
	var j statementJSON
	if err := decodeJSON(payload, &j); err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	s, err := j.statement()
	if err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if err := s.check(); err != nil {
		return Statement{}, err
	}
	again, err := s.encode()
	if err != nil || !bytes.Equal(again, payload) {
		return Statement{}, fmt.Errorf("%w: the JSON is not in the one form that is signed", ErrStatement)
	}
	return s, nil
}

// statement takes the values out of the JSON. That everything else stands as
// it should is for the comparison with encode.
func (j statementJSON) statement() (Statement, error) {
	p := j.Predicate
	if len(j.Subject) != 1 {
		return Statement{}, fmt.Errorf("it has %d subjects and must have one", len(j.Subject))
	}
	s := Statement{
		Format: p.Format, Mesh: p.Mesh, Repository: p.Repository, Commit: p.Commit,
		Sequence: p.Sequence, TreeSize: p.TreeSize,
	}
	var err error
	if s.Root, err = identity.ParseHex(j.Subject[0].Digest.SHA256); err != nil {
		return Statement{}, fmt.Errorf("subject: %w", err)
	}
	if p.Previous != "" {
		if err = s.Previous.UnmarshalText([]byte(p.Previous)); err != nil {
			return Statement{}, fmt.Errorf("previous: %w", err)
		}
	}
	for _, t := range []struct {
		name, text string
		to         *time.Time
	}{{"commitTime", p.CommitTime, &s.CommitTime}, {"issued", p.Issued, &s.Issued}, {"expires", p.Expires, &s.Expires}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = time.Parse(time.RFC3339, t.text); err != nil {
			return Statement{}, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if s.Keys, err = p.Keys.trust(); err != nil {
		return Statement{}, err
	}
	return s, nil
}

// check holds the rules that a statement keeps by itself, without its content
// and whatever the time is.
func (s Statement) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrStatement, fmt.Errorf(format, args...))
	}
	if s.Format != FormatV1 {
		return fmt.Errorf("%w: %q; this release reads %q", ErrFormat, clip(s.Format), FormatV1)
	}
	if err := checkName("mesh", s.Mesh); err != nil {
		return bad("%w", err)
	}
	if err := checkText("repository", s.Repository, maxName); err != nil {
		return bad("%w", err)
	}
	switch {
	case s.Root.IsZero():
		return bad("the root is zero")
	case !isCommit(s.Commit):
		return bad("commit %q is not 40 or 64 lower-case hexadecimal digits", clip(s.Commit))
	case s.Sequence == 0 || s.Sequence > MaxSequence:
		return bad("sequence %d is not within 1 and %d", s.Sequence, uint64(MaxSequence))
	case s.TreeSize == 0:
		return bad("the tree size is zero")
	case len(s.Keys.keys) > MaxKeys:
		return bad("it declares %d keys, at most %d", len(s.Keys.keys), MaxKeys)
	case !writable(s.CommitTime):
		return bad("the commit's time %v cannot be written", s.CommitTime)
	}
	if !s.timed() {
		if !s.Previous.IsZero() {
			return bad("a statement without times names no previous root")
		}
		if !s.Keys.IsZero() {
			return bad("a statement without times declares no keys")
		}
		return nil
	}
	switch {
	case !writable(s.Issued) || !writable(s.Expires):
		return bad("issued %v and expires %v must both be there", s.Issued, s.Expires)
	case !s.Expires.After(s.Issued):
		return bad("it expires at %s, not after its issue at %s", formatTime(s.Expires), formatTime(s.Issued))
	case s.Expires.Sub(s.Issued) > MaxStatementLifetime:
		return fmt.Errorf("%w: %s, at most %s", ErrLifetime, s.Expires.Sub(s.Issued), MaxStatementLifetime)
	}
	return nil
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// writable reports whether t is a UTC time of whole seconds in the years that
// RFC 3339 can name and that are not the zero time's.
func writable(t time.Time) bool {
	return t.Location() == time.UTC && t.Nanosecond() == 0 && t.Year() >= 1970 && t.Year() <= 9999
}

func formatTime(t time.Time) string { return t.Format(time.RFC3339) }

// seconds is t in UTC, its fraction of a second cut off.
func seconds(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// encodeJSON writes v without escaping and without a newline at the end.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeJSON reads one JSON value and nothing behind it. Duplicate and
// differently written keys pass here; they fail where the caller encodes again
// and compares.
func decodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}
