package snapshot

import (
	"fmt"
	"slices"
	"strings"
)

// Trust is who may sign snapshots: a set of keys, and how many of them are
// needed. It is configuration of the one who verifies and never part of what
// is verified. The zero Trust verifies nothing.
type Trust struct {
	keys      []PublicKey
	threshold int
}

// NewTrust refuses a threshold below one or above the number of keys, and a
// key that stands there twice: it would count twice.
func NewTrust(keys []PublicKey, threshold int) (Trust, error) {
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		switch {
		case k.Algorithm() == "":
			return Trust{}, fmt.Errorf("%w: key %d is empty", ErrTrust, i+1)
		case seen[k.ID()]:
			return Trust{}, fmt.Errorf("%w: key %s is listed twice", ErrTrust, k.ID())
		}
		seen[k.ID()] = true
	}
	if threshold < 1 || threshold > len(keys) {
		return Trust{}, fmt.Errorf("%w: a threshold of %d with %d keys; it must be at least 1 and at most the number of keys", ErrTrust, threshold, len(keys))
	}
	return Trust{keys: slices.Clone(keys), threshold: threshold}, nil
}

// Threshold is how many keys must have signed.
func (t Trust) Threshold() int { return t.threshold }

// KeyIDs lists the trusted keys, sorted.
func (t Trust) KeyIDs() []string {
	ids := make([]string, len(t.keys))
	for i, k := range t.keys {
		ids[i] = k.ID()
	}
	slices.Sort(ids)
	return ids
}

// verify returns the IDs of the trusted keys whose signatures of e verify,
// sorted, or why they are too few. It goes through the trusted keys, so each
// counts once at most, whatever the envelope says; signatures by other keys,
// and wrong ones beside enough right ones, change nothing. The algorithm is
// that of the trusted key.
func (t Trust) verify(e envelope) ([]string, error) {
	if t.threshold < 1 || t.threshold > len(t.keys) {
		return nil, fmt.Errorf("%w: a threshold of %d with %d keys", ErrTrust, t.threshold, len(t.keys))
	}
	if len(e.signatures) == 0 {
		return nil, fmt.Errorf("%w; run: meshseal sign", ErrUnsigned)
	}
	message := e.message()
	var good, wrong []string
	for _, k := range t.keys {
		i := slices.IndexFunc(e.signatures, func(s signature) bool { return s.keyID == k.ID() })
		switch {
		case i < 0:
		case k.verify(message, e.signatures[i].sig):
			good = append(good, k.ID())
		default:
			wrong = append(wrong, k.ID())
		}
	}
	switch {
	case len(good) >= t.threshold:
		slices.Sort(good)
		return good, nil
	case len(wrong) > 0:
		return nil, fmt.Errorf("%w: key %s; %d of %d needed signatures are good", ErrSignature, strings.Join(wrong, ", "), len(good), t.threshold)
	case len(good) == 0:
		return nil, fmt.Errorf("%w: signed by %s", ErrUntrusted, strings.Join(e.keyIDs(), ", "))
	}
	return nil, fmt.Errorf("%w: %d, and %d are needed", ErrThreshold, len(good), t.threshold)
}
