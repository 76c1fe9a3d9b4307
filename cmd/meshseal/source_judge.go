package main

import (
	"fmt"
	"time"

	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
)

// commitJudge says whether a commit may be built: whether it follows the one in
// force, and is signed as the configuration wants it.
type commitJudge struct {
	config signersConfig
	tags   gitsource.TagFile
}

func newCommitJudge(c signersConfig, tags gitsource.TagFile) (*commitJudge, error) {
	j := &commitJudge{config: c, tags: tags}
	if c.Unsigned != "" {
		return j, nil
	}
	_, err := j.signers() // a file that cannot be read ends the start
	return j, err
}

// signers reads the lists. They are read for every commit that is judged, so
// that one who is taken out counts no more from then on.
func (j *commitJudge) signers() (*gitsource.Signers, error) {
	var lists [2][]byte
	for i, path := range []string{j.config.SSH, j.config.OpenPGP} {
		if path == "" {
			continue
		}
		var err error
		if lists[i], err = readBounded(path, maxSignersFile); err != nil {
			return nil, err
		}
		if len(lists[i]) == 0 {
			return nil, fmt.Errorf("%s is empty", path)
		}
	}
	return gitsource.NewSigners(lists[0], lists[1])
}

// maxSignersFile bounds a list of signers, bytes.
const maxSignersFile = 4 << 20

// judge returns who signed what the source was opened by; nobody where
// unsigned commits are allowed.
func (j *commitJudge) judge(s *gitsource.Source, current *snapshot.Snapshot, now time.Time) (gitsource.Signer, error) {
	if err := j.tags.Check(s); err != nil {
		return gitsource.Signer{}, err
	}
	before := ""
	if current != nil {
		before = current.Statement().Commit
		if !s.Descends(before) {
			return gitsource.Signer{}, fmt.Errorf("%w: %s does not descend from %s, the commit in force: history was rewritten or the reference moved back; go back with git revert", snapshot.ErrAncestry, s.Commit().Hash, before)
		}
	}
	signer, err := j.signer(s, now)
	if err != nil || j.config.History != historyEvery || j.config.Unsigned != "" {
		return signer, err
	}
	signers, err := j.signers()
	if err != nil {
		return signer, err
	}
	return signer, s.VerifySince(before, signers, now)
}

// signer is whose signature counts for what the source was opened by.
func (j *commitJudge) signer(s *gitsource.Source, now time.Time) (gitsource.Signer, error) {
	if j.config.Unsigned != "" {
		return gitsource.Signer{}, nil
	}
	signers, err := j.signers()
	if err != nil {
		return gitsource.Signer{}, err
	}
	if j.config.Require == requireTag {
		return s.VerifyTag(signers, now)
	}
	return s.Verify(signers, now)
}

// serverKeys are the keys of a server that signs.
type serverKeys struct {
	signer snapshot.Signer
	// retiring signs as well, until everybody who trusted it has learned of the
	// new key; nil where no key is changed.
	retiring snapshot.Signer
	declares snapshot.Trust // the new key alone, while one is changed
}

// openServerKeys returns the keys and whose signatures count by the
// configuration: the retiring key's, since the state folder may hold what only
// that one has signed.
func openServerKeys(signer snapshot.Signer, c signingConfig) (serverKeys, snapshot.Trust, error) {
	own, err := snapshot.NewTrust([]snapshot.PublicKey{signer.Public()}, 1)
	if err != nil || c.Retiring == "" {
		return serverKeys{signer: signer}, own, err
	}
	retiring, err := snapshot.ReadPrivateKey(c.Retiring)
	if err != nil {
		return serverKeys{}, own, fmt.Errorf("retiring: %w", err)
	}
	old, err := snapshot.NewTrust([]snapshot.PublicKey{retiring.Public()}, 1)
	if err == nil && old.Equal(own) {
		err = fmt.Errorf("retiring: %s holds the key that signs; name the one before", c.Retiring)
	}
	return serverKeys{signer: signer, retiring: retiring, declares: own}, old, err
}

// settled reports whether counts is what the keys are meant to lead to; as long
// as it is not, the statement has to be renewed at once.
func (k serverKeys) settled(counts snapshot.Trust) bool {
	return k.retiring == nil || counts.Equal(k.declares)
}

// sign signs a draft by every key there is.
func (k serverKeys) sign(draft *snapshot.Draft, opts snapshot.SignOptions) (*snapshot.Draft, error) {
	opts.Keys = k.declares
	signed, err := draft.Sign(k.signer, opts)
	if err != nil || k.retiring == nil {
		return signed, err
	}
	return signed.Sign(k.retiring, snapshot.SignOptions{Now: opts.Now})
}
