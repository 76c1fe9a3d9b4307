package snapshot

import (
	"fmt"
	"slices"
	"time"
)

// High is the highest that was ever adopted: what a candidate has to reach.
// The zero High is that of somebody who has adopted nothing yet.
type High struct {
	Mesh     string
	Sequence uint64
	Root     Digest
	// Issued is the time of issue of the statement.
	Issued time.Time
	// Keys are the IDs of the trusted keys that had signed it, sorted.
	Keys []string
}

// High is what s raises the mark to when it is adopted.
func (s *Snapshot) High() High { return s.statement.high(s.keys) }

// High is what s raises the mark to when it is adopted.
func (s *Sealed) High() High { return s.statement.high(s.keys) }

func (s Statement) high(keys []string) High {
	return High{Mesh: s.Mesh, Sequence: s.Sequence, Root: s.Root, Issued: s.Issued, Keys: slices.Clone(keys)}
}

// IsZero reports whether nothing was adopted yet.
func (h High) IsZero() bool { return h.Sequence == 0 }

// Admit holds the rules of adoption: the same mesh; a sequence above h's, or
// equal with an equal root; and then a statement that is not older. It returns
// ErrMesh, ErrRollback or ErrFork.
func (h High) Admit(next High) error {
	if h.IsZero() {
		return nil
	}
	switch {
	case next.Mesh != h.Mesh:
		return fmt.Errorf("%w: %q, and %q was adopted before", ErrMesh, next.Mesh, h.Mesh)
	case next.Sequence < h.Sequence:
		return fmt.Errorf("%w: sequence %d, and %d was adopted before; to go back, revert the commits in a new one", ErrRollback, next.Sequence, h.Sequence)
	case next.Sequence == h.Sequence && next.Root != h.Root:
		return fmt.Errorf("%w: sequence %d is %s, and %s was adopted before", ErrFork, next.Sequence, next.Root, h.Root)
	case next.Sequence == h.Sequence && next.Issued.Before(h.Issued):
		return fmt.Errorf("%w: the statement was issued at %s, and one of %s was adopted before", ErrRollback, formatTime(next.Issued), formatTime(h.Issued))
	}
	return nil
}

// Successor holds that candidate may take the place of current, which is nil
// where nothing is in force, with highest the highest ever adopted. Everything
// that adopts a snapshot asks this; what is adopted was verified before.
func Successor(current *Snapshot, highest High, candidate *Snapshot) error {
	if candidate == nil || candidate.Root().IsZero() {
		return fmt.Errorf("%w: there is no candidate", ErrUnsigned)
	}
	if err := highest.Admit(candidate.High()); err != nil {
		return err
	}
	if current == nil {
		return nil
	}
	return current.High().Admit(candidate.High())
}
