package snapshot

import (
	"fmt"
	"time"
)

// The rules by which a snapshot is adopted stand in this file, whoever adopts:
// the server, the commands, the guard inside Envoy. vouch says whose signatures
// count, validAt at which times, Record.Next what may follow what. That every
// leaf and resource is there (decode), or the list belongs to the root
// (openList), holds for every value that comes here.

// ClockSkew is how far in the future a statement may have been issued by the
// verifier's clock.
const ClockSkew = 60 * time.Second

// vouch returns the statement of e and the IDs of the keys of t that have
// signed it, sorted. Enough of t's keys must have signed the exact bytes, which
// are decoded only then. A statement that declares other keys than t must be
// signed by enough of those too: whoever adopts it trusts them from then on, so
// nobody can be made to trust keys that their owners do not use.
func (t Trust) vouch(e envelope) (Statement, []string, error) {
	keys, err := t.verify(e)
	if err != nil {
		return Statement{}, nil, err
	}
	st, err := parseStatement(e.payload)
	if err != nil {
		return Statement{}, nil, err
	}
	if st.Keys.IsZero() || st.Keys.Equal(t) {
		return st, keys, nil
	}
	if _, err := st.Keys.verify(e); err != nil {
		return Statement{}, nil, fmt.Errorf("%w: it declares %v with a threshold of %d: %w", ErrRotation, st.Keys.KeyIDs(), st.Keys.Threshold(), err)
	}
	return st, keys, nil
}

// validAt holds the times of a statement.
func (s Statement) validAt(now time.Time) error {
	switch {
	case !s.timed():
		return ErrUnsigned
	case s.Issued.After(now.Add(ClockSkew)):
		return fmt.Errorf("%w: at %s, and it is %s; compare the clocks", ErrNotYetValid, formatTime(s.Issued), formatTime(seconds(now)))
	case !now.Before(s.Expires):
		return fmt.Errorf("%w: at %s, and it is %s; renew it: meshseal sign --renew", ErrExpired, formatTime(s.Expires), formatTime(seconds(now)))
	}
	return nil
}

// Verified is what can be adopted: a *Snapshot or a *Sealed, and nothing else.
type Verified interface {
	// Statement is the signed statement.
	Statement() Statement
	// KeyIDs lists the trusted keys that had signed, sorted.
	KeyIDs() []string
	// ValidAt is an error where the time stands against it.
	ValidAt(now time.Time) error
	proof() envelope
}

// Ancestry reports whether commit descends from ancestor; both are object names
// in lower-case hexadecimal. An error says that it could not be found out, and
// then nothing is adopted.
type Ancestry func(ancestor, commit string) (bool, error)

// Next holds every rule of adoption and returns the record after it; r stays as
// it was. candidate was verified with r.Trust() at the time of the adoption,
// which is where its times were checked; its signatures are checked here again,
// so that what was verified with other keys cannot come in. Then
//
//   - it is of the mesh that was adopted before (ErrMesh);
//   - its sequence is higher (ErrRollback), or the same with the same root
//     (ErrFork) and a statement that was not issued earlier (ErrRollback), and
//     issued later where it declares other keys than count;
//   - its commit descends from the one that was adopted last (ErrAncestry).
//     Where ancestry is nil (a file, a seal) nobody knows, and the sequence
//     alone decides.
//
// The keys that it declares count from then on. The statement that was adopted
// last changes nothing when it comes again: where the operator has configured
// other keys since, those stay.
//
// Next changes nothing on disk: keep the record (RecordFile.Keep, Store.Adopt)
// before what it stands for takes effect.
func (r Record) Next(candidate Verified, ancestry Ancestry) (Record, error) {
	if candidate == nil {
		return Record{}, fmt.Errorf("%w: there is no candidate", ErrUnsigned)
	}
	proof := candidate.proof()
	st, _, err := r.trust.vouch(proof)
	if err != nil {
		return Record{}, err
	}
	next := Record{configured: r.configured, from: r.trust.ID(), trust: r.trust, high: st.high(proof.payload)}
	if !st.Keys.IsZero() && next.high.Statement != r.high.Statement {
		next.trust = st.Keys
	}
	if err := r.admit(next); err != nil {
		return Record{}, err
	}
	if err := r.high.descends(st.Commit, ancestry); err != nil {
		return Record{}, err
	}
	return next, nil
}

// admit holds the rules between two records.
func (r Record) admit(next Record) error {
	h, n := r.high, next.high
	switch {
	case h.IsZero():
		return nil
	case n.Mesh != h.Mesh:
		return fmt.Errorf("%w: %q, and %q was adopted before", ErrMesh, n.Mesh, h.Mesh)
	case n.Sequence > h.Sequence:
		return nil
	case n.Sequence < h.Sequence:
		return fmt.Errorf("%w: sequence %d, and %d was adopted before; to go back, revert the commits in a new one", ErrRollback, n.Sequence, h.Sequence)
	case n.Root != h.Root:
		return fmt.Errorf("%w: sequence %d is %s, and %s was adopted before", ErrFork, n.Sequence, n.Root, h.Root)
	case n.Issued.Before(h.Issued):
		return fmt.Errorf("%w: the statement was issued at %s, and one of %s was adopted before", ErrRollback, formatTime(n.Issued), formatTime(h.Issued))
	case n.Issued.Equal(h.Issued) && !next.trust.Equal(r.trust):
		return fmt.Errorf("%w: the statement declares other keys and was issued at %s, as was the one that was adopted before; sign it again", ErrRollback, formatTime(n.Issued))
	}
	return nil
}

// descends holds the rule of descent from h's commit.
func (h High) descends(commit string, ancestry Ancestry) error {
	if ancestry == nil || h.Commit == "" || h.Commit == commit {
		return nil
	}
	ok, err := ancestry(h.Commit, commit)
	if err != nil {
		return fmt.Errorf("%w: whether %s descends from %s cannot be found out: %w", ErrAncestry, commit, h.Commit, err)
	}
	if !ok {
		return fmt.Errorf("%w: %s does not descend from %s: history was rewritten or the reference moved back; go back with git revert", ErrAncestry, commit, h.Commit)
	}
	return nil
}
