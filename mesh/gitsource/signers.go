package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"meshseal/snapshot"
)

// maxSignature bounds the armored signature of a commit or a tag, bytes.
const maxSignature = 64 << 10

// Signers says whose signatures on commits and tags count. The zero Signers
// accepts nobody. It may be used by many goroutines.
//
// Keys are judged by the time at which somebody asks, never by the time that a
// commit states: whoever holds a key that has expired can write any date.
type Signers struct {
	ssh     []allowedSigner
	openpgp keyring
}

// NewSigners reads whose signatures count: allowed, in the format of OpenSSH's
// ALLOWED SIGNERS (ssh-keygen(1)), for SSH, and keys, armored public keys, for
// OpenPGP. One of them may be empty.
func NewSigners(allowed, keys []byte) (*Signers, error) {
	s := &Signers{}
	var err error
	if len(allowed) > 0 {
		if s.ssh, err = parseAllowedSigners(allowed); err != nil {
			return nil, fmt.Errorf("allowed signers: %w", err)
		}
	}
	if len(keys) > 0 {
		if s.openpgp, err = parseKeyring(keys); err != nil {
			return nil, fmt.Errorf("OpenPGP keys: %w", err)
		}
	}
	if len(s.ssh) == 0 && len(s.openpgp) == 0 {
		return nil, errors.New("nobody is listed whose signature counts")
	}
	return s, nil
}

// Signer is who signed a commit or a tag: a listed key. The zero Signer is
// nobody.
type Signer struct {
	// Principal is how the list names the owner of the key: the principals of
	// an allowed-signers line, the user ID of an OpenPGP key.
	Principal string
	// Fingerprint is that of the key that signed: "SHA256:" and base64 for an
	// SSH key, upper-case hexadecimal for an OpenPGP key.
	Fingerprint string
}

// String is principal and fingerprint.
func (s Signer) String() string {
	if s == (Signer{}) {
		return ""
	}
	return s.Principal + " " + s.Fingerprint
}

// verify tells whose signature stands on an object.
func (s *Signers) verify(o signed, now time.Time) (Signer, error) {
	switch armored := bytes.TrimSpace(o.signature); {
	case len(armored) == 0:
		return Signer{}, snapshot.ErrCommitUnsigned
	case len(armored) > maxSignature:
		return Signer{}, fmt.Errorf("%w: it has %d bytes; at most %d are read", snapshot.ErrCommitSignature, len(armored), maxSignature)
	case bytes.HasPrefix(armored, []byte(beginSSH)):
		return verifySSH(s.ssh, o.payload, armored, now)
	case bytes.HasPrefix(armored, []byte(beginOpenPGP)):
		return s.openpgp.verify(o.payload, armored, now)
	}
	return Signer{}, fmt.Errorf("%w: it is neither an SSH nor an OpenPGP signature (X.509 is not supported)", snapshot.ErrCommitSignature)
}

// Verify tells who signed the commit. It returns snapshot.ErrCommitUnsigned,
// ErrCommitSignature for a signature that is malformed or not of this commit,
// and ErrCommitSigner for one by somebody who is not listed, or not any more,
// or whose key is not valid now.
//
// The signature of one commit covers its tree and the names of its parents,
// and so everything that is built and all of the history; it does not say that
// each of the commits before it was signed: VerifySince does.
func (s *Source) Verify(signers *Signers, now time.Time) (Signer, error) {
	return s.repo.verifyCommit(plumbing.NewHash(s.commit.Hash), signers, now)
}

// VerifySince holds that every commit which the commit brings beyond those of
// since is signed by a listed signer, itself included. An empty since stands
// for nothing that is in force yet: then only the commit itself is looked at.
func (s *Source) VerifySince(since string, signers *Signers, now time.Time) error {
	if since == "" {
		_, err := s.Verify(signers, now)
		return err
	}
	known, err := s.repo.ancestors(plumbing.NewHash(since))
	if err != nil {
		return err
	}
	for hash := range s.history {
		if _, ok := known[hash]; ok {
			continue
		}
		if _, err := s.repo.verifyCommit(hash, signers, now); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) verifyCommit(hash plumbing.Hash, signers *Signers, now time.Time) (Signer, error) {
	data, err := r.read(plumbing.CommitObject, hash, maxCommit)
	if err != nil {
		return Signer{}, err
	}
	object, err := parseCommit(data)
	if err != nil {
		return Signer{}, fmt.Errorf("commit %s: %w", hash, err)
	}
	signer, err := signers.verify(object, now)
	if err != nil {
		return Signer{}, fmt.Errorf("commit %s: %w", hash, err)
	}
	return signer, nil
}

// VerifyTag tells who signed the annotated tag that the source was opened by.
// The tag has to name the commit itself and bear the name of its ref: a good
// signature on one tag must not pass for another.
func (s *Source) VerifyTag(signers *Signers, now time.Time) (Signer, error) {
	name, ok := strings.CutPrefix(s.ref, "refs/tags/")
	if !ok {
		return Signer{}, fmt.Errorf("%w: %q is not a tag", snapshot.ErrCommitUnsigned, s.ref)
	}
	data, err := s.repo.read(plumbing.TagObject, s.object, maxCommit)
	if s.object.String() == s.commit.Hash {
		return Signer{}, fmt.Errorf("tag %s: %w: it is a lightweight tag; make an annotated one: git tag -s", name, snapshot.ErrCommitUnsigned)
	}
	if err != nil {
		return Signer{}, err
	}
	object, err := parseTag(data)
	if err == nil && object.name != name {
		err = fmt.Errorf("%w: it was signed as tag %.200q", snapshot.ErrCommitSignature, object.name)
	}
	if err == nil && object.target.String() != s.commit.Hash {
		err = fmt.Errorf("%w: it names commit %s", snapshot.ErrCommitSignature, object.target)
	}
	signer := Signer{}
	if err == nil {
		signer, err = signers.verify(object, now)
	}
	if err != nil {
		return Signer{}, fmt.Errorf("tag %s: %w", name, err)
	}
	return signer, nil
}
