package snapshot

import (
	"fmt"
	"slices"
	"time"
)

// Snapshot is an immutable, verified snapshot. Draft.Verify, Open and Store
// make one; nothing else does.
type Snapshot struct {
	file
	keys []string
}

// Verify is the one verifier: every way by which a snapshot comes in ends
// here. It wants enough good signatures by trusted keys, and by the keys that the
// statement declares where these are others; a statement that now
// is neither expired nor issued in the future nor valid for longer than is
// allowed; and waivers whose end dates have not come. That the content is what
// the statement names holds for every Draft.
func (d *Draft) Verify(t Trust, now time.Time) (*Snapshot, error) {
	s, err := d.verify(t)
	if err != nil {
		return nil, err
	}
	if err := s.ValidAt(now); err != nil {
		return nil, err
	}
	return s, nil
}

// verify is Verify without the times.
func (d *Draft) verify(t Trust) (*Snapshot, error) {
	_, keys, err := t.vouch(d.envelope)
	if err != nil {
		return nil, err
	}
	return &Snapshot{file: d.file, keys: keys}, nil
}

// Open parses and verifies a snapshot file. The signatures are checked over
// the exact bytes before those are decoded.
func Open(data []byte, t Trust, now time.Time) (*Snapshot, error) {
	s, err := open(data, t)
	if err != nil {
		return nil, err
	}
	if err := s.ValidAt(now); err != nil {
		return nil, err
	}
	return s, nil
}

// open is Open without the times.
func open(data []byte, t Trust) (*Snapshot, error) {
	raw, body, err := frame(data)
	if err != nil {
		return nil, err
	}
	env, err := parseEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	_, keys, err := t.vouch(env)
	if err != nil {
		return nil, err
	}
	f, err := decode(env, body)
	if err != nil {
		return nil, err
	}
	return &Snapshot{file: f, keys: keys}, nil
}

// ValidAt holds the rules that depend on the time: ErrNotYetValid, ErrExpired,
// ErrWaiverExpired. Verify has checked them once; who keeps a snapshot in
// force asks again. The waiver of a workload is not among them: it ends for the
// callers of that workload, request by request (UnprovenUntil).
func (s *Snapshot) ValidAt(now time.Time) error {
	if s == nil {
		return ErrUnsigned
	}
	if err := s.statement.validAt(now); err != nil {
		return err
	}
	for _, w := range s.content.Waivers {
		if w.Workload == "" && !now.Before(w.Until) {
			return fmt.Errorf("%w: the waiver of %s for %s ended at %s; end the exception or review it again in a new commit", ErrWaiverExpired, w.Rule, w.target(), formatTime(w.Until))
		}
	}
	return nil
}

// KeyIDs lists the trusted keys by whose signatures the snapshot was verified,
// sorted.
func (s *Snapshot) KeyIDs() []string { return slices.Clone(s.keys) }

// Draft returns the snapshot as a draft, to sign it again.
func (s *Snapshot) Draft() *Draft { return &Draft{file: s.file} }

// proof is what Record.Next verifies once more.
func (s *Snapshot) proof() envelope {
	if s == nil {
		return envelope{}
	}
	return s.envelope
}
